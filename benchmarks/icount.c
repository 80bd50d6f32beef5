/* QEMU plugin: the number of instructions that a program executes.
 *
 *   cc -O2 -shared -fPIC -DAPI=1 icount.c -o icount.so
 *   qemu-aarch64 -plugin ./icount.so,out=FILE program
 *
 * FILE receives one decimal number when the program ends. Distributions do not ship QEMU's header,
 * so the few declarations are written out; they are the same in every version of the interface, and
 * API names the version that the QEMU at hand asks for. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
enum { NO_REGISTERS = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int,
                                          void *);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = API;

static uint64_t total;
static char *path;

static void executed(unsigned cpu, void *count) {
  (void)cpu;
  total += (uintptr_t)count;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
  (void)id;
  uintptr_t count = qemu_plugin_tb_n_insns(block);
  qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS, (void *)count);
}

static void finished(plugin_id id, void *unused) {
  (void)id, (void)unused;
  FILE *file = path ? fopen(path, "w") : NULL;
  if (!file) return; /* whoever asked finds no file */
  fprintf(file, "%" PRIu64 "\n", total);
  fclose(file);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  (void)info;
  for (int i = 0; i < argc; i++)
    if (!strncmp(argv[i], "out=", 4)) path = strdup(argv[i] + 4);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
