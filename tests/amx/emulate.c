/* AMX int8 and bf16 without AMX: executes tile instructions in a handler of SIGILL. For tests only.
 *
 * On a processor that lacks them, LDTILECFG, TILERELEASE, TILEZERO, TILELOADD, TILELOADDT1,
 * TILESTORED, TDPBSSD, TDPBUSD and TDPBF16PS raise SIGILL. The handler decodes the instruction (Intel SDM vol. 2, VEX
 * encodings of map 0F38), executes it on tiles in memory of the thread, and goes on behind it. What
 * a processor would refuse ends the process with one line on stderr: a tile that is not configured
 * on this thread, shapes that do not fit, use of tiles before the permission.
 *
 * The permission is asked for by the system call arch_prctl(ARCH_REQ_XCOMP_PERM, 18), made with the
 * C library's `syscall`. With this library in LD_PRELOAD the call arrives here, and so it does not
 * reach the kernel: AMX_EMULATE_REFUSE=1 refuses it, all else grants it.
 *
 * SIGILL must reach the handler, so `pthread_sigmask` leaves it open, whatever a thread blocks.
 *
 * Counts go to stderr at the end of the process if AMX_EMULATE_REPORT is set.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, ASK = 0x1023, TILE_DATA = 18 };

typedef struct {
  int configured; /* LDTILECFG was executed and not released */
  uint8_t rows[TILES];
  uint16_t bytes[TILES]; /* of a row */
  uint8_t data[TILES][ROWS][ROW_BYTES];
} state;

static _Thread_local state tiles;
static atomic_int permitted;
static atomic_long products, configurations, full_products;
static struct sigaction before;

static void refuse(const char *why) {
  dprintf(2, "AMX emulator: %s\n", why);
  _exit(70);
}

/* ---- decoding ------------------------------------------------------------------------------ */

typedef struct {
  int prefix; /* 0 none, 1 66, 2 F3, 3 F2 */
  int opcode, mod, reg, rm, vvvv;
  uint8_t *base;    /* address without the index; NULL for registers */
  int64_t index;    /* the index register times its scale; 0 without one */
  uint8_t *address; /* all of it */
  size_t length;
} instruction;

static const int ORDER[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static int64_t general(const ucontext_t *at, int number) { return at->uc_mcontext.gregs[ORDER[number]]; }

/* 1 if the bytes at `code` are a VEX instruction of map 0F38 with W = 0 and 128 bits. */
static int decode(const ucontext_t *at, const uint8_t *code, instruction *out) {
  memset(out, 0, sizeof *out);
  if (code[0] != 0xC4) return 0;
  const int r = !(code[1] & 0x80), x = !(code[1] & 0x40), b = !(code[1] & 0x20);
  if ((code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0) return 0;
  out->prefix = code[2] & 3;
  out->vvvv = ~(code[2] >> 3) & 15;
  out->opcode = code[3];
  out->mod = code[4] >> 6;
  out->reg = (code[4] >> 3 & 7) | r << 3;
  out->rm = (code[4] & 7) | b << 3;
  const uint8_t *next = code + 5;
  if (out->mod == 3) {
    out->length = 5;
    return 1;
  }
  int relative = 0, based = 1, base = out->rm;
  if ((code[4] & 7) == 4) {
    const int sib = *next++;
    const int index = (sib >> 3 & 7) | x << 3;
    if (index != 4) out->index = general(at, index) * (1 << (sib >> 6));
    base = (sib & 7) | b << 3;
    based = (sib & 7) != 5 || out->mod != 0;
  } else if (out->mod == 0 && (code[4] & 7) == 5) {
    relative = 1, based = 0;
  }
  int64_t displacement = 0;
  if (out->mod == 1) {
    displacement = (int8_t)*next++;
  } else if (out->mod == 2 || !based) {
    int32_t wide;
    memcpy(&wide, next, sizeof wide);
    displacement = wide, next += 4;
  }
  out->length = (size_t)(next - code);
  int64_t address = displacement;
  if (based) address += general(at, base);
  if (relative) address += (int64_t)(intptr_t)next;
  out->base = (uint8_t *)(intptr_t)address;
  out->address = out->base + out->index;
  return 1;
}

/* ---- executing ----------------------------------------------------------------------------- */

static void need(int number) {
  if (number >= TILES) refuse("a tile number above 7");
  if (!tiles.configured) refuse("a tile instruction on a thread without a configuration");
  if (!tiles.rows[number] || !tiles.bytes[number]) refuse("a tile that the configuration leaves out");
}

static void configure(const uint8_t *from) {
  if (!permitted) refuse("tiles are configured before the permission was asked for");
  if (from[0] != 1) refuse("a palette other than 1");
  memset(&tiles, 0, sizeof tiles);
  for (int t = 0; t < TILES; t++) {
    memcpy(&tiles.bytes[t], from + 16 + 2 * t, 2);
    tiles.rows[t] = from[48 + t];
    if (tiles.bytes[t] > ROW_BYTES || tiles.rows[t] > ROWS) refuse("a tile of more than 16 rows of 64 bytes");
    if (!tiles.bytes[t] != !tiles.rows[t]) refuse("a tile with rows but no columns, or the reverse");
  }
  for (int i = 2; i < 16; i++)
    if (from[i]) refuse("a reserved byte of the configuration is set");
  tiles.configured = 1;
  configurations++;
}

static void load(const instruction *in) {
  need(in->reg);
  memset(tiles.data[in->reg], 0, sizeof tiles.data[0]);
  for (int r = 0; r < tiles.rows[in->reg]; r++)
    memcpy(tiles.data[in->reg][r], in->base + in->index * r, tiles.bytes[in->reg]);
}

static void store(const instruction *in) {
  need(in->reg);
  for (int r = 0; r < tiles.rows[in->reg]; r++)
    memcpy(in->base + in->index * r, tiles.data[in->reg][r], tiles.bytes[in->reg]);
}

static float flushed(float value) { return fabsf(value) < FLT_MIN ? copysignf(0, value) : value; }

static float wide(const uint8_t *bfloat16) {
  uint32_t bits = (uint32_t)bfloat16[1] << 24 | (uint32_t)bfloat16[0] << 16;
  float value;
  memcpy(&value, &bits, 4);
  return flushed(value);
}

/* Two chains of FMAs that round to nearest, whose sum is added; subnormal numbers are 0. */
static float dot_bf16(float sum, int a, int b, int m, int n) {
  float chains[2] = {0, 0};
  for (int k = 0; k < tiles.bytes[a] / 4; k++)
    for (int part = 0; part < 2; part++) {
      const float x = wide(tiles.data[a][m] + 4 * k + 2 * part), y = wide(tiles.data[b][k] + 4 * n + 2 * part);
      chains[part] = flushed(fmaf(x, y, chains[part]));
    }
  return flushed(flushed(sum) + flushed(chains[0] + chains[1]));
}

static uint32_t dot_bytes(uint32_t sum, int a, int b, int m, int n, int is_signed) {
  for (int k = 0; k < tiles.bytes[a]; k++) {
    const uint8_t code = tiles.data[a][m][k];
    sum += (uint32_t)((is_signed ? (int8_t)code : code) * (int8_t)tiles.data[b][k / 4][4 * n + k % 4]);
  }
  return sum;
}

enum { TDPBSSD = 0x5E03, TDPBUSD = 0x5E01, TDPBF16PS = 0x5C02 };

static void multiply(const instruction *in, int which) { /* reg, rm, vvvv */
  const int to = in->reg, a = in->rm, b = in->vvvv;
  need(to), need(a), need(b);
  if (to == a || to == b || a == b) refuse("a product with one tile twice");
  if (tiles.rows[to] != tiles.rows[a] || tiles.bytes[to] != tiles.bytes[b] ||
      tiles.bytes[a] / 4 != tiles.rows[b]) {
    dprintf(2, "a product %d, %d, %d with %d, %d and %d rows of %d, %d and %d bytes\n", to, a, b,
            tiles.rows[to], tiles.rows[a], tiles.rows[b], tiles.bytes[to], tiles.bytes[a], tiles.bytes[b]);
    refuse("a product of tiles whose shapes do not fit");
  }
  for (int m = 0; m < tiles.rows[to]; m++)
    for (int n = 0; n < tiles.bytes[to] / 4; n++) {
      uint8_t *at = tiles.data[to][m] + 4 * n;
      if (which == TDPBF16PS) {
        float sum;
        memcpy(&sum, at, 4);
        sum = dot_bf16(sum, a, b, m, n);
        memcpy(at, &sum, 4);
      } else {
        uint32_t sum;
        memcpy(&sum, at, 4);
        sum = dot_bytes(sum, a, b, m, n, which == TDPBSSD);
        memcpy(at, &sum, 4);
      }
    }
  products++;
  full_products += tiles.rows[to] == ROWS;
}

/* 1 if the instruction was one of ours. */
static int execute(const instruction *in) {
  const int sib = in->mod != 3 && (in->rm & 7) == 4;
  const int which = in->opcode << 8 | in->prefix;
  if (which == 0x4900 && in->mod != 3 && in->reg == 0 && in->vvvv == 0) {
    configure(in->address);
  } else if (which == 0x4900 && in->mod == 3 && in->reg == 0 && in->rm == 0) {
    memset(&tiles, 0, sizeof tiles); /* TILERELEASE */
  } else if (which == 0x4903 && in->mod == 3 && in->rm == 0) {
    need(in->reg);
    memset(tiles.data[in->reg], 0, sizeof tiles.data[0]);
  } else if ((which == 0x4B03 || which == 0x4B01) && sib) {
    load(in);
  } else if (which == 0x4B02 && sib) {
    store(in);
  } else if ((which == TDPBSSD || which == TDPBUSD || which == TDPBF16PS) && in->mod == 3) {
    multiply(in, which);
  } else {
    return 0;
  }
  return 1;
}

static void handle(int signal_number, siginfo_t *info, void *context) {
  ucontext_t *at = context;
  instruction in;
  (void)info;
  if (decode(at, (const uint8_t *)at->uc_mcontext.gregs[REG_RIP], &in) && execute(&in)) {
    at->uc_mcontext.gregs[REG_RIP] += (greg_t)in.length;
    return;
  }
  const uint8_t *code = (const uint8_t *)at->uc_mcontext.gregs[REG_RIP];
  dprintf(2, "AMX emulator: does not know %02x %02x %02x %02x %02x %02x %02x %02x\n", code[0], code[1],
          code[2], code[3], code[4], code[5], code[6], code[7]);
  sigaction(signal_number, &before, NULL); /* not ours: the instruction is executed again */
}

/* ---- what tests call ----------------------------------------------------------------------- */

void amx_emulate_install(void) {
  struct sigaction mine;
  memset(&mine, 0, sizeof mine);
  mine.sa_sigaction = handle;
  mine.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &mine, &before);
}

void amx_emulate_remove(void) { sigaction(SIGILL, &before, NULL); }

void amx_emulate_permit(int yes) { permitted = yes; }

/* Products so far, and how many of them had all 16 rows, and configurations that were loaded. */
long amx_emulate_products(void) { return products; }
long amx_emulate_full_products(void) { return full_products; }
long amx_emulate_configurations(void) { return configurations; }

static void report(void) {
  dprintf(2, "AMX emulator: permitted %d, products %ld, configurations %ld\n", permitted, products, configurations);
}

long syscall(long number, ...) {
  static long (*real)(long, ...);
  long a[6];
  va_list rest;
  va_start(rest, number);
  for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
  va_end(rest);
  if (number == SYS_arch_prctl && (int)a[0] == ASK && a[1] == TILE_DATA) {
    if (getenv("AMX_EMULATE_REFUSE")) {
      errno = EPERM;
      return -1;
    }
    permitted = 1;
    return 0;
  }
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "syscall");
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* A thread that blocks all signals still has to run tile instructions: SIGILL stays open. */
int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
  static int (*real)(int, const sigset_t *, sigset_t *);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pthread_sigmask");
  if (set == NULL || how == SIG_UNBLOCK) return real(how, set, old);
  sigset_t open = *set;
  sigdelset(&open, SIGILL);
  return real(how, &open, old);
}

__attribute__((constructor)) static void start(void) {
  const char *preload = getenv("LD_PRELOAD");
  if (preload && strstr(preload, "amx_emulate")) amx_emulate_install();
  if (getenv("AMX_EMULATE_REPORT")) atexit(report);
}
