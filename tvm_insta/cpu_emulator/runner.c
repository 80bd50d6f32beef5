/* Runs a plain-C artefact on raw files:
 *
 *   runner INPUT OUTPUT BATCH THREADS [TRACE]
 *
 * network.h, which is written for the artefact, includes its header and defines INPUTS,
 * INPUT_BYTES and OUTPUT_BYTES (of one image), and names its functions. INPUT holds all images of
 * the first input, then those of the second, and so on. TRACE gets every output of every kernel,
 * behind four numbers: image, call, which of its outputs it is, and its bytes (int32).
 * Exit code: that of the artefact's functions, 100 for a file or memory that fails. */
#include "network.h"

#include <stdio.h>
#include <stdlib.h>

static void record(const EVENT *event, void *trace) {
  int32_t head[] = {event->image, event->call, event->output, (int32_t)event->bytes};
  if (fwrite(head, sizeof head, 1, trace) != 1 || fwrite(event->data, event->bytes, 1, trace) != 1)
    exit(100);
}

int main(int argc, char **argv) {
  static const size_t image_bytes[INPUTS] = INPUT_BYTES;
  void *inputs[INPUTS];
  if (argc != 5 && argc != 6) return 100;
  int32_t batch = (int32_t)atoi(argv[3]);
  FILE *file = fopen(argv[1], "rb"), *trace = argc == 6 ? fopen(argv[5], "wb") : NULL;
  if (!file || (argc == 6 && !trace)) return 100;
  for (int index = 0; index < INPUTS; ++index) {
    size_t bytes = (size_t)batch * image_bytes[index];
    /* Whole vectors are loaded from addresses of this alignment. */
    inputs[index] = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!inputs[index] || fread(inputs[index], 1, bytes, file) != bytes) return 100;
  }
  fclose(file);
  size_t bytes = (size_t)batch * OUTPUT_BYTES;
  void *output = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!output) return 100;
  int code = INIT(NULL);
  if (code == 0) code = SET_THREADS((int32_t)atoi(argv[4]));
  if (trace) SET_OBSERVER(record, trace);
  if (code == 0) code = RUN(inputs, output, batch);
  if (code != 0) {
    const char *feature = MISSING_FEATURE();
    fprintf(stderr, "%s%s%s\n", ERROR(code), feature ? ": " : "", feature ? feature : "");
    return code;
  }
  if (trace && fclose(trace)) return 100;
  file = fopen(argv[2], "wb");
  if (!file || fwrite(output, 1, bytes, file) != bytes || fclose(file)) return 100;
  for (int index = 0; index < INPUTS; ++index) free(inputs[index]);
  free(output);
  return 0;
}
