/* Runs a plain-C artefact on raw files: runner INPUT OUTPUT BATCH INPUT_BYTES OUTPUT_BYTES THREADS.
 * Inputs and output are whatever types the network has; INPUT_BYTES and OUTPUT_BYTES are of one
 * image. Exit code: that of model_init or model_run, 100 for a file or memory that fails. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  if (argc != 7) return 100;
  size_t batch = (size_t)atoi(argv[3]);
  size_t in_bytes = batch * (size_t)atol(argv[4]), out_bytes = batch * (size_t)atol(argv[5]);
  void *input = malloc(in_bytes), *output = malloc(out_bytes);
  FILE *file = fopen(argv[1], "rb");
  if (!input || !output || !file || fread(input, 1, in_bytes, file) != in_bytes) return 100;
  fclose(file);
  int code = model_init(NULL);
#ifndef __wasm__ /* which has no threads */
  if (code == MODEL_OK) code = model_set_threads((int32_t)atoi(argv[6]));
#endif
  if (code == MODEL_OK) code = model_run(input, output, (int32_t)batch);
  if (code != MODEL_OK) {
    const char *feature = model_missing_feature();
    fprintf(stderr, "%s (%s)\n", model_error(code), feature ? feature : "no feature missing");
    return code;
  }
  file = fopen(argv[2], "wb");
  if (!file || fwrite(output, 1, out_bytes, file) != out_bytes || fclose(file)) return 100;
  free(input);
  free(output);
  return 0;
}
