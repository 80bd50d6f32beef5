/* Classify a batch of images with the plain-C form of a model (compiled with `--runtime c`).
 *
 *   gcc -std=c11 -O2 -Wall -Wextra -Werror -I build/model plain_c.c build/model/model.a -lm -o plain_c
 *   ./plain_c batch.f32
 *
 * Or with the shared library, found at run time beside its manifest:
 *
 *   gcc -std=c11 -O2 -Wall -Wextra -Werror -I build/model plain_c.c build/model/model.so \
 *       -Wl,-rpath,"$PWD/build/model" -o plain_c
 *
 * README.md says how batch.f32 is made.
 */
#include <stdio.h>
#include <stdlib.h>

#include "batch_file.h"
#include "model.h"

int main(int argc, char **argv) {
  int status = EXIT_FAILURE;
  int code = MODEL_OK;
  float *input = NULL;
  float *output = NULL;
  int32_t images = 0;

  if (argc != 2) {
    fprintf(stderr, "usage: %s BATCH.f32\n", argv[0]);
    return EXIT_FAILURE;
  }
  code = model_init(NULL);
  if (code != MODEL_OK) {
    const char *feature = model_missing_feature();
    fprintf(stderr, "model_init: %s (%s)\n", model_error(code), feature ? feature : "none missing");
    goto done;
  }
  if (read_batch(argv[1], MODEL_INPUT_ELEMENTS, &input, &images) != 0) goto done;
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
  if (print_logits(output, images, MODEL_OUTPUT_ELEMENTS) != 0) goto done;
  status = EXIT_SUCCESS;
done:
  free(output);
  free(input);
  return status;
}
