/* A TVM RPC server for a board without Python: it needs TVM's two runtime libraries and nothing else.
 *
 *   gcc -std=c11 -O2 -Wall -Wextra -Werror -isystem include server.c -o server -L lib \
 *       -Wl,--no-as-needed -ltvm_runtime -ltvm_ffi -Wl,-rpath,'$ORIGIN/lib' \
 *       -Wl,--allow-shlib-undefined
 *   ./server --tracker HOST:PORT --key KEY [--host ADDRESS] [--port PORT]
 *
 * `include` and `lib` are those of a bundle (tvm_insta.compile --bundle, vm form). --host is the
 * address to listen on and to announce; without it the server listens on all, and clients come to
 * the one from which it reached the tracker. --port 0, the default, takes a free one.
 *
 * Each session is a process and a folder of its own. Whoever reaches the port has native code run
 * here: use it in a network that you trust.
 *
 * The protocol is that of tvm/rpc/server.py and tracker.py of TVM 0.27: lengths and codes are 32-bit
 * little-endian integers, the tracker speaks JSON.
 */
#define _GNU_SOURCE /* prctl, getaddrinfo, mkdtemp */
#include <dirent.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "TVM's RPC protocol is little-endian, and so must this machine be"
#endif

enum { SESSION_MAGIC = 0xFF271, MISMATCH = SESSION_MAGIC + 2, TRACKER_MAGIC = 0x2F271 };
enum { PUT = 3, UPDATE_INFO = 5, PENDING_KEYS = 7 }; /* codes of the tracker */
enum { TEXT = 256, ANSWER = 1 << 20 };
enum { PING_MS = 2000, UNUSED_PINGS = 3 };       /* as TVM's server has them */
enum { HANDSHAKE_S = 10, RETRY_S = 1 };

static const char *key_name, *announced;
static int port;

static void say(const char *format, ...) {
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
    failed = bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 4) != 0;
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
  unsigned number = 0;
  FILE *random = fopen("/dev/urandom", "rb");
  const int have = random != NULL && fread(&number, sizeof number, 1, random) == 1;
  if (random != NULL) fclose(random);
  if (!have) return -1;
  snprintf(match, TEXT, "%s:%08x", key_name, number);
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
      cell = (const TVMFFIByteArray *)((const char *)value->v_obj + sizeof(TVMFFIObject));
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

/* One session, in a folder and a process that end with it; seconds 0: no limit. */
static void session(int client, unsigned seconds) {
  const char *temporary = getenv("TMPDIR");
  char folder[TEXT];
  snprintf(folder, TEXT, "%s/tvm_rpc-XXXXXX", temporary == NULL ? P_tmpdir : temporary);
  if (mkdtemp(folder) == NULL) {
    perror(folder);
    return;
  }
  const pid_t parent = getpid(), child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || chdir(folder) != 0) _exit(EXIT_FAILURE);
    alarm(seconds); /* which ends the process */
    _exit(serve(client));
  }
  int status = 0;
  if (child < 0) perror("fork");
  else while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) refuse(client, seconds);
  else if (WIFSIGNALED(status)) say("the session died of signal %d", WTERMSIG(status));
  remove_folder(folder);
}

/* Accept a client that shows the match key; returns its socket, or -1. */
static int greet(int listener, const char *match, unsigned *seconds) {
  const int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (client < 0) return -1;
  limit_waiting(client, HANDSHAKE_S); /* whoever connects and says nothing holds nobody up */
  char shown[TEXT], expected[TEXT + 8], mine[TEXT + 8];
  int32_t magic = 0;
  if (receive_number(client, &magic) == 0 && magic == SESSION_MAGIC &&
      receive_text(client, shown, TEXT) == 0) {
    const char *limit = strstr(shown, " -timeout=");
    *seconds = limit == NULL ? 0 : (unsigned)strtod(limit + 10, NULL);
    shown[strcspn(shown, " ")] = '\0';
    snprintf(expected, sizeof expected, "client:%s", match);
    snprintf(mine, sizeof mine, "server:%s", key_name);
    const int32_t size = (int32_t)strlen(mine);
    if (strcmp(shown, expected) != 0) {
      send_number(client, MISMATCH);
    } else if (send_number(client, SESSION_MAGIC) == 0 && send_number(client, size) == 0 &&
               send_all(client, mine, (size_t)size) == 0) {
      limit_waiting(client, 0);
      return client;
    }
  }
  close(client);
  return -1;
}

/* Offer, wait, serve, again and again; returns when the tracker is gone. */
static void work(int listener, int tracker) {
  char match[TEXT], quoted[TEXT + 2];
  for (;;) {
    if (offer(tracker, match) != 0) return;
    snprintf(quoted, sizeof quoted, "\"%s\"", match);
    for (int unused = 0; unused <= UNUSED_PINGS;) {
      struct pollfd waiting = {.fd = listener, .events = POLLIN};
      if (poll(&waiting, 1, PING_MS) > 0) {
        unsigned seconds = 0;
        const int client = greet(listener, match, &seconds);
        if (client < 0) continue;
        session(client, seconds);
        close(client);
        break;
      }
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
  const char *host = NULL, *service = "0", *where = NULL;
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
      (host != NULL && (strlen(host) > TEXT - 1 || strpbrk(host, "\"\\") != NULL))) {
    fprintf(stderr,
            "usage: %s --tracker HOST:PORT --key KEY [--host ADDRESS] [--port PORT]   (KEY without "
            "quotes, spaces and colons)\n",
            argv[0]);
    return EXIT_FAILURE;
  }
  snprintf(tracker_host, sizeof tracker_host, "%.*s", (int)(colon - where), where);
  snprintf(quoted, sizeof quoted, "\"%s\"", host == NULL ? "" : host);
  announced = host == NULL ? "null" : quoted;

  ask_for_tiles();
  const int listener = open_socket(host, service, 1);
  struct sockaddr_in own;
  socklen_t size = sizeof own;
  if (listener < 0 || getsockname(listener, (struct sockaddr *)&own, &size) != 0) {
    fprintf(stderr, "cannot listen on %s:%s: %s\n", host == NULL ? "*" : host, service,
            strerror(errno));
    return EXIT_FAILURE;
  }
  port = ntohs(own.sin_port);
  say("listening on %s:%d, key %s", host == NULL ? "*" : host, port, key_name);
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
