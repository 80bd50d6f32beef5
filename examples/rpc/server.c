/* A TVM RPC server for a board without Python: it needs TVM's two runtime libraries and nothing else.
 *
 *   gcc -std=c11 -O2 -Wall -Wextra -Werror -isystem include server.c -o server -L lib \
 *       -Wl,--no-as-needed -ltvm_runtime -ltvm_ffi -Wl,-rpath,'$ORIGIN/lib' \
 *       -Wl,--allow-shlib-undefined
 *   ./server --tracker HOST:PORT --key KEY [--host ADDRESS] [--port PORT]
 *
 * `include` and `lib` are those of a bundle (tvm_insta.compile --bundle, vm form). --host is the
 * address to listen on and to announce; without it, 127.0.0.1, which nobody else reaches. 0.0.0.0 is all
 * addresses of this machine; clients then come to the one from which it reached the tracker. --port 0,
 * the default, takes a free one.
 *
 * Each session is a folder and processes of its own. Whoever is lent this server by the tracker has native
 * code run here, and nothing on the wire is encrypted: use it in a network that you trust.
 *
 * The protocol is that of tvm/rpc/server.py and tracker.py of TVM 0.27: lengths and codes are 32-bit
 * little-endian integers, the tracker speaks JSON.
 */
#define _GNU_SOURCE /* prctl, getaddrinfo, mkdtemp */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "TVM's RPC protocol is little-endian, and so must this machine be"
#endif

enum { SESSION_MAGIC = 0xFF271, MISMATCH = SESSION_MAGIC + 2, TRACKER_MAGIC = 0x2F271 };
enum { PUT = 3, UPDATE_INFO = 5, PENDING_KEYS = 7 }; /* codes of the tracker */
enum { TEXT = 256, ANSWER = 1 << 20, PIECE = 1 << 16 };
enum { PING_MS = 2000, UNUSED_PINGS = 3 }; /* as TVM's server has them */
enum { HANDSHAKE_S = 10, RETRY_S = 1, LOOK_MS = 50 };
enum { SESSION_S = 7 * 24 * 3600 };        /* the longest limit of a session that a client may ask for */
enum { MESSAGE = 256 << 20 };              /* bytes of one message; an upload is one */
enum { GUESTS = 64 };                      /* clients that have not shown a key yet */

static const char *key_name, *announced;
static int port;

/* A line for whoever reads along. If nobody does, a full pipe must not stop the server: it is dropped. */
static void say(const char *format, ...) {
  struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
  if (poll(&out, 1, 0) != 1 || out.revents != POLLOUT) return;
  va_list args;
  va_start(args, format);
  vprintf(format, args);
  va_end(args);
  putchar('\n');
  fflush(stdout);
}

/* ---- bytes -------------------------------------------------------------------------------------- */

static int send_all(int fd, const void *data, size_t size) {
  for (const char *at = data; size > 0;) {
    const ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return -1;
    at += sent;
    size -= (size_t)sent;
  }
  return 0;
}

static int receive_all(int fd, void *data, size_t size) {
  for (char *at = data; size > 0;) {
    const ssize_t got = recv(fd, at, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return -1;
    at += got;
    size -= (size_t)got;
  }
  return 0;
}

static int send_number(int fd, int32_t number) { return send_all(fd, &number, sizeof number); }

static int receive_number(int fd, int32_t *number) { return receive_all(fd, number, sizeof *number); }

/* A length, then that many characters, into text[0..most), which becomes a string. */
static int receive_text(int fd, char *text, int32_t most) {
  int32_t size = 0;
  if (receive_number(fd, &size) != 0 || size < 0 || size >= most) return -1;
  text[size] = '\0';
  return receive_all(fd, text, (size_t)size);
}

static void limit_waiting(int fd, int seconds) {
  const struct timeval limit = {.tv_sec = seconds, .tv_usec = 0}; /* 0: for ever */
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

/* A connected or listening socket; -1 if there is none. */
static int open_socket(const char *host, const char *service, int listening) {
  struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found = NULL;
  if (listening) hints.ai_flags = AI_PASSIVE;
  if (getaddrinfo(host, service, &hints, &found) != 0) return -1;
  const int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0), on = 1;
  int failed = fd < 0;
  if (!failed && listening) {
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    failed = bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, GUESTS) != 0;
  } else if (!failed) {
    failed = connect(fd, found->ai_addr, found->ai_addrlen) != 0;
  }
  freeaddrinfo(found);
  if (!failed) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

/* ---- the tracker -------------------------------------------------------------------------------- */

/* Send one message and take the answer, whose text is kept until the next call; NULL if it is gone. */
static const char *ask(int tracker, const char *format, ...) {
  static char answer[ANSWER];
  char message[2 * TEXT];
  va_list args;
  va_start(args, format);
  const int size = vsnprintf(message, sizeof message, format, args);
  va_end(args);
  if (size < 0 || (size_t)size >= sizeof message) return NULL;
  if (send_number(tracker, size) != 0 || send_all(tracker, message, (size_t)size) != 0) return NULL;
  return receive_text(tracker, answer, ANSWER) == 0 ? answer : NULL;
}

static int is_success(const char *answer) { return answer != NULL && strcmp(answer, "0") == 0; }

/* Connect and say who is here; -1 if the tracker does not answer. */
static int join(const char *host, const char *service) {
  const int tracker = open_socket(host, service, 0);
  if (tracker < 0) return -1;
  limit_waiting(tracker, HANDSHAKE_S);
  int32_t magic = 0;
  if (send_number(tracker, TRACKER_MAGIC) == 0 && receive_number(tracker, &magic) == 0 &&
      magic == TRACKER_MAGIC &&
      is_success(ask(tracker, "[%d, {\"key\": \"server:%s\", \"addr\": [%s, %d]}]", UPDATE_INFO,
                     key_name, announced, port)))
    return tracker;
  close(tracker);
  return -1;
}

/* Offer this server under a new match key, which whoever is lent it will show. */
static int offer(int tracker, char *match) {
  unsigned numbers[4]; /* nobody guesses 128 bits */
  FILE *random = fopen("/dev/urandom", "rb");
  const int have = random != NULL && fread(numbers, sizeof numbers, 1, random) == 1;
  if (random != NULL) fclose(random);
  if (!have) return -1;
  snprintf(match, TEXT, "%s:%08x%08x%08x%08x", key_name, numbers[0], numbers[1], numbers[2],
           numbers[3]);
  const char *format = "[%d, \"%s\", [%d, \"%s\"], %s]";
  return is_success(ask(tracker, format, PUT, key_name, port, match, announced)) ? 0 : -1;
}

/* ---- what a session may ask for ----------------------------------------------------------------- */

/* The characters of a string argument, or NULL. */
static const char *argument(const TVMFFIAny *value, size_t *size) {
  const TVMFFIByteArray *cell;
  switch (value->type_index) {
    case kTVMFFIRawStr:
      *size = strlen(value->v_c_str);
      return value->v_c_str;
    case kTVMFFISmallStr:
      *size = value->small_str_len;
      return value->v_bytes;
    case kTVMFFIStr:
      cell = (const void *)((const char *)value->v_obj + sizeof(TVMFFIObject));
      *size = cell->size;
      return cell->data;
    default:
      return NULL;
  }
}

/* "./NAME" of the only argument, a plain file name. */
static int path_of(const TVMFFIAny *args, int32_t count, char *path) {
  size_t size = 0;
  const char *name = count == 1 ? argument(args, &size) : NULL;
  if (name == NULL || size == 0 || size > TEXT - 3 || memchr(name, '/', size) != NULL ||
      memchr(name, '\0', size) != NULL || name[0] == '.') {
    TVMFFIErrorSetRaisedFromCStr("ValueError", "a session may use plain file names only");
    return -1;
  }
  snprintf(path, TEXT, "./%.*s", (int)size, name);
  return 0;
}

/* tvm.rpc.server.workpath: where a file of this session is; its folder is the current one. */
static int workpath(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  (void)self;
  char path[TEXT];
  if (path_of(args, count, path) != 0) return -1;
  const TVMFFIByteArray text = {path, strlen(path)};
  return TVMFFIStringFromByteArray(&text, result);
}

/* tvm.rpc.server.load_module: a library that was uploaded. */
static int load_module(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  (void)self;
  char path[TEXT];
  if (path_of(args, count, path) != 0) return -1;
  const TVMFFIByteArray name = {"ffi.ModuleLoadFromFile", 22};
  TVMFFIObjectHandle load = NULL;
  if (TVMFFIFunctionGetGlobal(&name, &load) != 0) return -1;
  TVMFFIAny text = {.type_index = kTVMFFIRawStr, .v_c_str = path};
  const int failed = TVMFFIFunctionCall(load, &text, 1, result);
  TVMFFIObjectDecRef(load);
  return failed;
}

static int define(const char *name, TVMFFISafeCallType call) {
  const TVMFFIByteArray key = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  if (TVMFFIFunctionCreate(NULL, call, NULL, &function) != 0) return -1;
  const int failed = TVMFFIFunctionSetGlobal(&key, function, 1);
  TVMFFIObjectDecRef(function);
  return failed;
}

/* ---- sessions ----------------------------------------------------------------------------------- */

/* Serve one client until it leaves; runs in a process of its own. */
static int serve(int client) {
  const TVMFFIByteArray name = {"rpc.ServerLoop", 14};
  TVMFFIObjectHandle loop = NULL;
  if (define("tvm.rpc.server.workpath", workpath) != 0 ||
      define("tvm.rpc.server.load_module", load_module) != 0 ||
      TVMFFIFunctionGetGlobal(&name, &loop) != 0 || loop == NULL) {
    fprintf(stderr, "libtvm_runtime has no RPC server; is it linked with --no-as-needed?\n");
    return EXIT_FAILURE;
  }
  TVMFFIAny socket = {.type_index = kTVMFFIInt, .v_int64 = client}, ignored;
  memset(&ignored, 0, sizeof ignored);
  return TVMFFIFunctionCall(loop, &socket, 1, &ignored) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void remove_folder(const char *path) {
  DIR *folder = opendir(path);
  if (folder == NULL) return;
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
    unlinkat(dirfd(folder), entry->d_name, 0);
  closedir(folder);
  rmdir(path);
}

/* Tell a client why its session has ended, in TVM's words. */
static void refuse(int client, unsigned seconds) {
  char text[TEXT];
  snprintf(text, sizeof text, "RPCSessionTimeoutError: the session took over %u s", seconds);
  say("%s", text);
  const TVMFFIByteArray name = {"rpc.ReturnException", 19};
  TVMFFIObjectHandle answer = NULL;
  TVMFFIAny args[2], ignored;
  memset(args, 0, sizeof args);
  memset(&ignored, 0, sizeof ignored);
  args[0].type_index = kTVMFFIInt;
  args[0].v_int64 = client;
  args[1].type_index = kTVMFFIRawStr;
  args[1].v_c_str = text;
  if (TVMFFIFunctionGetGlobal(&name, &answer) != 0 || answer == NULL) return;
  TVMFFIFunctionCall(answer, args, 2, &ignored);
  TVMFFIObjectDecRef(answer);
}

/* The next bytes of a client's messages: each is a length of 8 bytes and that many bytes. */
struct messages {
  unsigned char length[8];
  size_t have;   /* bytes of the length that are known */
  uint64_t rest; /* of the message */
};

/* Follow the messages in data; -1 if one is longer than MESSAGE. TVM would ask the system for as much
 * memory as the length says, before it has seen a byte of the message. */
static int follow(struct messages *state, const unsigned char *data, size_t size) {
  while (size > 0) {
    size_t taken = 1;
    if (state->rest > 0) {
      taken = size < state->rest ? size : (size_t)state->rest;
      state->rest -= taken;
    } else {
      state->length[state->have++] = *data;
      if (state->have == sizeof state->length) {
        memcpy(&state->rest, state->length, sizeof state->rest);
        state->have = 0;
        if (state->rest > MESSAGE) return -1;
      }
    }
    data += taken;
    size -= taken;
  }
  return 0;
}

/* Carry bytes between a client and the process that serves it until one of them is gone. */
static void relay(int client, int server) {
  static unsigned char data[PIECE];
  struct messages state;
  memset(&state, 0, sizeof state);
  struct pollfd ends[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
  for (;;) {
    if (poll(ends, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return;
    }
    for (int from = 0; from < 2; from++) {
      if (ends[from].revents == 0) continue;
      const ssize_t got = recv(ends[from].fd, data, sizeof data, 0);
      if (got <= 0) return;
      if (from == 0 && follow(&state, data, (size_t)got) != 0) {
        say("a message of over %d bytes is refused", MESSAGE);
        return;
      }
      if (send_all(ends[1 - from].fd, data, (size_t)got) != 0) return;
    }
  }
}

/* Serve one client in another process, whose messages pass through this one; returns its status. */
static int guarded(int client) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return EXIT_FAILURE;
  const pid_t parent = getpid(), child = fork();
  if (child < 0) return EXIT_FAILURE;
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(EXIT_FAILURE);
    close(ends[0]);
    close(client);
    _exit(serve(ends[1]));
  }
  close(ends[1]);
  relay(client, ends[0]);
  close(ends[0]); /* the loop of TVM sees the end of its messages, and should end itself */
  int status = 0;
  for (int waited = 0; waitpid(child, &status, WNOHANG) == 0; waited += LOOK_MS) {
    if (waited >= HANDSHAKE_S * 1000) {
      say("a session goes on without its client: ended");
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      return EXIT_FAILURE;
    }
    poll(NULL, 0, LOOK_MS);
  }
  if (WIFSIGNALED(status)) {
    signal(WTERMSIG(status), SIG_DFL);
    raise(WTERMSIG(status));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
}

/* A session under way: its process, its folder, its client, and its limit, 0 for none. */
static struct session {
  pid_t process;
  int client;
  unsigned seconds;
  char folder[TEXT];
} now;

/* Where memory runs out, Linux ends a session and not the server: a false length inside of a message
 * makes TVM ask for as much. */
static void go_first(void) {
  const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, "1000", 4) != 4) perror("oom_score_adj");
  close(fd);
}

/* A false length inside of a message is refused at once, and not when memory has run out: a session has
 * three quarters of what the machine has. AddressSanitizer's own maps are larger than any machine. */
static void bound_memory(void) {
#ifndef __SANITIZE_ADDRESS__
  const rlim_t pages = (rlim_t)sysconf(_SC_PHYS_PAGES), page = (rlim_t)sysconf(_SC_PAGESIZE);
  const struct rlimit limit = {.rlim_cur = pages / 4 * 3 * page, .rlim_max = pages / 4 * 3 * page};
  if (setrlimit(RLIMIT_DATA, &limit) != 0) perror("a session's limit of memory");
#endif
}

/* Begin a session, in a folder and processes that end with it; -1 if the system does not let us. */
static int begin_session(int client, unsigned seconds) {
  const char *temporary = getenv("TMPDIR");
  const int size = snprintf(now.folder, TEXT, "%s/tvm_rpc-XXXXXX",
                            temporary == NULL ? P_tmpdir : temporary);
  if (size < 0 || size >= TEXT || mkdtemp(now.folder) == NULL) {
    perror(now.folder);
    return -1;
  }
  const pid_t parent = getpid(), child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || chdir(now.folder) != 0) _exit(EXIT_FAILURE);
    go_first();
    bound_memory();
    alarm(seconds); /* which ends the process */
    _exit(guarded(client));
  }
  if (child < 0) {
    perror("fork");
    remove_folder(now.folder);
    return -1;
  }
  now.process = child;
  now.client = client;
  now.seconds = seconds;
  return 0;
}

/* 1 if no session is under way any more; cleans up behind one that has ended. */
static int session_ended(void) {
  int status = 0;
  if (now.process == 0) return 1;
  if (waitpid(now.process, &status, WNOHANG) == 0) return 0;
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) refuse(now.client, now.seconds);
  else if (WIFSIGNALED(status)) say("the session died of signal %d", WTERMSIG(status));
  close(now.client);
  remove_folder(now.folder);
  now.process = 0;
  return 1;
}

/* ---- clients ------------------------------------------------------------------------------------ */

/* A client that has not shown its key yet. */
static struct guest {
  int fd; /* 0: free */
  int64_t until;
  size_t have;
  char bytes[2 * sizeof(int32_t) + TEXT]; /* the magic number, a length, the key */
} guests[GUESTS];

static int64_t milliseconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void dismiss(struct guest *guest) {
  close(guest->fd);
  guest->fd = 0;
}

/* Take whoever has connected. Where there is no place, whoever has been silent longest goes. */
static void welcome(int listener) {
  const int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (fd < 0) return;
  struct guest *place = &guests[0];
  for (int i = 0; i < GUESTS && place->fd != 0; i++)
    if (guests[i].fd == 0 || guests[i].until < place->until) place = &guests[i];
  if (place->fd != 0) dismiss(place);
  place->fd = fd;
  place->until = milliseconds() + HANDSHAKE_S * 1000;
  place->have = 0;
}

/* The seconds after " -timeout=" in what a client shows; 0: no limit. */
static unsigned limit_of(const char *shown) {
  const char *limit = strstr(shown, " -timeout=");
  const double seconds = limit == NULL ? 0 : strtod(limit + 10, NULL);
  if (!(seconds > 0)) return 0; /* NaN too */
  if (seconds >= SESSION_S) return SESSION_S;
  return seconds < 1 ? 1 : (unsigned)seconds;
}

/* Answer a client that has shown a key; 0 if it is the right one. */
static int answer(int client, char *shown, const char *match) {
  char expected[TEXT + 8], mine[TEXT + 8];
  shown[strcspn(shown, " ")] = '\0';
  snprintf(expected, sizeof expected, "client:%s", match);
  snprintf(mine, sizeof mine, "server:%s", key_name);
  const int32_t size = (int32_t)strlen(mine);
  if (match[0] == '\0' || strcmp(shown, expected) != 0) {
    send_number(client, MISMATCH);
    return -1;
  }
  if (send_number(client, SESSION_MAGIC) != 0 || send_number(client, size) != 0) return -1;
  return send_all(client, mine, (size_t)size);
}

/* Read what a guest has sent. 1: it has shown the match key, and its place is free; 0: it has not yet,
 * or is gone. Never waits, and never reads into the messages behind the key. */
static int listen_to(struct guest *guest, const char *match, int *client, unsigned *seconds) {
  int32_t numbers[2];
  for (;;) {
    size_t wanted = sizeof numbers;
    if (guest->have >= sizeof numbers) {
      memcpy(numbers, guest->bytes, sizeof numbers);
      if (numbers[0] != SESSION_MAGIC || numbers[1] < 0 || numbers[1] >= TEXT) break;
      wanted += (size_t)numbers[1];
      if (guest->have == wanted) {
        guest->bytes[wanted] = '\0';
        char *shown = guest->bytes + sizeof numbers;
        *seconds = limit_of(shown);
        if (answer(guest->fd, shown, match) != 0) break;
        *client = guest->fd;
        guest->fd = 0;
        return 1;
      }
    }
    const ssize_t got = recv(guest->fd, guest->bytes + guest->have, wanted - guest->have, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got <= 0) break;
    guest->have += (size_t)got;
  }
  dismiss(guest);
  return 0;
}

/* Wait for at most LOOK_MS, and hear whoever speaks; 1 if one has shown the match key. */
static int look(int listener, const char *match, int *client, unsigned *seconds) {
  struct pollfd waiting[GUESTS + 1];
  for (int i = 0; i < GUESTS; i++)
    waiting[i] = (struct pollfd){.fd = guests[i].fd == 0 ? -1 : guests[i].fd, .events = POLLIN};
  waiting[GUESTS] = (struct pollfd){.fd = listener, .events = POLLIN};
  if (poll(waiting, GUESTS + 1, LOOK_MS) < 0) return 0;
  for (int i = 0; i < GUESTS; i++) {
    if (waiting[i].fd < 0) continue;
    if (waiting[i].revents != 0 && listen_to(&guests[i], match, client, seconds)) return 1;
    if (guests[i].fd != 0 && milliseconds() > guests[i].until) dismiss(&guests[i]);
  }
  if (waiting[GUESTS].revents != 0) welcome(listener);
  return 0;
}

/* Offer, wait, serve, again and again; returns when the tracker is gone. */
static void work(int listener, int tracker) {
  char match[TEXT], quoted[TEXT + 2];
  int client = -1;
  unsigned seconds = 0;
  for (;;) {
    while (!session_ended()) look(listener, "", &client, &seconds); /* all others are refused */
    if (offer(tracker, match) != 0) return;
    snprintf(quoted, sizeof quoted, "\"%s\"", match);
    int64_t ping = milliseconds() + PING_MS;
    for (int unused = 0; unused <= UNUSED_PINGS;) {
      if (look(listener, match, &client, &seconds)) {
        if (begin_session(client, seconds) != 0) close(client);
        break;
      }
      if (milliseconds() < ping) continue;
      ping = milliseconds() + PING_MS;
      /* A key that is lent and never shown: offer another, or nobody will come again. */
      const char *pending = ask(tracker, "[%d]", PENDING_KEYS);
      if (pending == NULL) return;
      unused = strstr(pending, quoted) == NULL ? unused + 1 : 0;
    }
  }
}

/* Ask for AMX tiles, once and for all sessions; a processor without them, or a refusal, shows when a
 * kernel uses them. */
static void ask_for_tiles(void) {
#ifdef __x86_64__
  syscall(SYS_arch_prctl, 0x1023, 18); /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
#endif
}

int main(int argc, char **argv) {
  const char *host = "127.0.0.1", *service = "0", *where = NULL;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--tracker") == 0) where = argv[i + 1];
    else if (strcmp(argv[i], "--key") == 0) key_name = argv[i + 1];
    else if (strcmp(argv[i], "--host") == 0) host = argv[i + 1];
    else if (strcmp(argv[i], "--port") == 0) service = argv[i + 1];
    else where = NULL, argc = 0;
  }
  char tracker_host[TEXT], quoted[TEXT + 2];
  const char *colon = where == NULL ? NULL : strrchr(where, ':');
  if (argc % 2 == 0 || colon == NULL || colon - where >= TEXT || key_name == NULL ||
      strlen(key_name) > TEXT / 4 || strpbrk(key_name, "\"\\ :") != NULL ||
      strlen(host) > TEXT - 1 || strpbrk(host, "\"\\") != NULL) {
    fprintf(stderr,
            "usage: %s --tracker HOST:PORT --key KEY [--host ADDRESS] [--port PORT]   (KEY without "
            "quotes, spaces and colons)\n",
            argv[0]);
    return EXIT_FAILURE;
  }
  snprintf(tracker_host, sizeof tracker_host, "%.*s", (int)(colon - where), where);
  snprintf(quoted, sizeof quoted, "\"%s\"", host);
  announced = strcmp(host, "0.0.0.0") == 0 ? "null" : quoted;

  ask_for_tiles();
  const int listener = open_socket(host, service, 1);
  struct sockaddr_in own;
  socklen_t size = sizeof own;
  if (listener < 0 || getsockname(listener, (struct sockaddr *)&own, &size) != 0) {
    fprintf(stderr, "cannot listen on %s:%s: %s\n", host, service,
            strerror(errno));
    return EXIT_FAILURE;
  }
  port = ntohs(own.sin_port);
  say("listening on %s:%d, key %s", host, port, key_name);
  for (int told = 0;; sleep(RETRY_S)) {
    const int tracker = join(tracker_host, colon + 1);
    if (tracker >= 0) {
      say("registered at %s", where);
      work(listener, tracker);
      close(tracker);
      told = 0;
      say("the tracker %s is gone; trying to reach it again", where);
    } else if (!told++) {
      say("the tracker %s does not answer; trying on", where);
    }
  }
}
