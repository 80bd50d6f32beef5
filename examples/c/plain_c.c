/* Classify a batch of images with the plain-C form of a model (compiled with `--runtime c`).
 *
 *   gcc -std=c11 -O2 -Wall -Wextra -Werror -I build/model plain_c.c build/model/model.a -lm -pthread -o plain_c
 *   ./plain_c batch.raw
 *   ./plain_c batch.raw 2     (with two threads: the same bits)
 *
 * Or with the shared library, found at run time beside its manifest:
 *
 *   gcc -std=c11 -O2 -Wall -Wextra -Werror -I build/model plain_c.c build/model/model.so \
 *       -Wl,-rpath,"$PWD/build/model" -pthread -o plain_c
 *
 * README.md says how batch.raw is made.
 */
#include <stdio.h>
#include <stdlib.h>

#include "batch_file.h"
#include "model.h"

int main(int argc, char **argv) {
  int status = EXIT_FAILURE;
  int code = MODEL_OK;
  void *input = NULL;
  float *output = NULL;
  int32_t images = 0, threads = 1;

  if (argc != 2 && argc != 3) {
    fprintf(stderr, "usage: %s BATCH.raw [THREADS]\n", argv[0]);
    return EXIT_FAILURE;
  }
  if (argc == 3 && (threads = read_threads(argv[2])) < 1) return EXIT_FAILURE;
  code = model_init(NULL);
  if (code != MODEL_OK) {
    const char *feature = model_missing_feature();
    fprintf(stderr, "model_init: %s (%s)\n", model_error(code), feature ? feature : "none missing");
    goto done;
  }
  code = model_set_threads(threads);
  if (code != MODEL_OK) {
    fprintf(stderr, "model_set_threads: %s\n", model_error(code));
    goto done;
  }
  if (read_batch(argv[1], MODEL_INPUT_ELEMENTS * sizeof(MODEL_INPUT_TYPE), &input, &images) != 0)
    goto done;
  output = calloc((size_t)images * MODEL_OUTPUT_ELEMENTS, sizeof *output);
  if (output == NULL) {
    fprintf(stderr, "no memory for the logits of %ld images\n", (long)images);
    goto done;
  }
  code = model_run(input, output, images);
  if (code != MODEL_OK) {
    fprintf(stderr, "model_run: %s\n", model_error(code));
    goto done;
  }
  if (print_logits(output, 0, images, MODEL_OUTPUT_ELEMENTS) != 0) goto done;
  status = EXIT_SUCCESS;
done:
  free(output);
  free(input);
  return status;
}
