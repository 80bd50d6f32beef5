/* Calls one kernel of the plain-C form: PROGRAM CALLS INPUT OUTPUT.
 *
 * arguments.h, which is generated, says how many arguments the kernel has, how long they are and
 * which of them it writes. INPUT holds all of them but scratch memory, one behind the other; OUTPUT
 * receives those that are written. Exit code: the kernel's, or 100 for a file that fails.
 */
#include <stdio.h>
#include <stdlib.h>

#include "arguments.h"

static void *memory[ARGUMENTS];

int main(int argc, char **argv) {
  if (argc != 4) return 100;
  FILE *file = fopen(argv[2], "rb");
  if (!file) return 100;
  for (int i = 0; i < ARGUMENTS; ++i) {
    size_t bytes = argument_bytes[i];
    memory[i] = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory[i]) return 100;
    if (i < FROM_FILE && fread(memory[i], 1, bytes, file) != bytes) return 100;
  }
  fclose(file);
  int code = 0;
  for (int calls = atoi(argv[1]); calls > 0 && !code; --calls) code = CALL(memory);
  if (code) return code;
  file = fopen(argv[3], "wb");
  if (!file) return 100;
  for (int i = 0; i < FROM_FILE; ++i)
    if (argument_written[i] &&
        fwrite(memory[i], 1, argument_bytes[i], file) != argument_bytes[i])
      return 100;
  return fclose(file) ? 100 : 0;
}
