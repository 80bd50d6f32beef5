/* Runs a plain-C artefact on raw files:
 *
 *   runner INPUT OUTPUT BATCH INPUT_BYTES OUTPUT_BYTES THREADS [TRACE]
 *
 * Inputs and output are whatever types the network has; INPUT_BYTES and OUTPUT_BYTES are of one
 * image. TRACE gets every output of every kernel, behind three numbers: the call, which of its
 * outputs it is, and its bytes (int32 in this machine's order).
 * Exit code: that of model_init or model_run, 100 for a file or memory that fails. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>

static void record(const model_event *event, void *trace) {
  int32_t head[] = {event->call, event->output, (int32_t)event->bytes};
  if (fwrite(head, sizeof head, 1, trace) != 1 || fwrite(event->data, event->bytes, 1, trace) != 1)
    exit(100);
}

int main(int argc, char **argv) {
  if (argc != 7 && argc != 8) return 100;
  size_t batch = (size_t)atoi(argv[3]);
  size_t in_bytes = batch * (size_t)atol(argv[4]), out_bytes = batch * (size_t)atol(argv[5]);
  void *input = malloc(in_bytes), *output = malloc(out_bytes);
  FILE *file = fopen(argv[1], "rb"), *trace = argc == 8 ? fopen(argv[7], "wb") : NULL;
  if (!input || !output || !file || fread(input, 1, in_bytes, file) != in_bytes) return 100;
  if (argc == 8 && !trace) return 100;
  fclose(file);
  int code = model_init(NULL);
  if (code == MODEL_OK) code = model_set_threads((int32_t)atoi(argv[6]));
  if (trace) model_set_observer(record, trace);
  if (code == MODEL_OK) code = model_run(input, output, (int32_t)batch);
  if (code != MODEL_OK) {
    const char *feature = model_missing_feature();
    fprintf(stderr, "%s (%s)\n", model_error(code), feature ? feature : "no feature missing");
    return code;
  }
  if (trace && fclose(trace)) return 100;
  file = fopen(argv[2], "wb");
  if (!file || fwrite(output, 1, out_bytes, file) != out_bytes || fclose(file)) return 100;
  free(input);
  free(output);
  return 0;
}
