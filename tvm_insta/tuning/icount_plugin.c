/* A QEMU plugin that counts executed instructions: -plugin THIS,out=FILE writes the number to FILE.
 *
 * Distributions ship QEMU without the header of its plugin interface, so the few functions that are
 * used are declared here; they have the same form in every version of the interface. Only the
 * version's number has to be one that the running QEMU speaks: -DPLUGIN_VERSION=N.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION 1
#endif
#define VISIBLE __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;

/* Exactly as QEMU declares them, but for the names of the types. */
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id,
                                           void (*cb)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
                                          void (*cb)(unsigned int, void *), int flags, void *data);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*cb)(plugin_id, void *), void *data);

VISIBLE int qemu_plugin_version = PLUGIN_VERSION;

static uint64_t executed;
static char out[4096];

/* The programs that are counted have one thread, so a plain variable is enough. */
static void on_execute(unsigned int cpu, void *instructions) {
  (void)cpu;
  executed += (uint64_t)(uintptr_t)instructions;
}

static void on_translate(plugin_id id, struct qemu_plugin_tb *tb) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_execute, 0,
                                       (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
}

static void on_exit_of_program(plugin_id id, void *data) {
  (void)id;
  (void)data;
  FILE *file = fopen(out, "w");
  if (!file) return;
  fprintf(file, "%" PRIu64 "\n", executed);
  fclose(file);
}

VISIBLE int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  (void)info;
  for (int i = 0; i < argc; ++i)
    if (!strncmp(argv[i], "out=", 4) && strlen(argv[i] + 4) < sizeof out) strcpy(out, argv[i] + 4);
  if (!out[0]) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
  qemu_plugin_register_atexit_cb(id, on_exit_of_program, NULL);
  return 0;
}
