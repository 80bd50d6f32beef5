/* A batch of images as raw numbers of the network's input type, float32 or uint8, as
 * `python -m tvm_insta.run ... --dump-input FILE` writes it: image after image, nothing else. The
 * byte order is the machine's own. */
#ifndef BATCH_FILE_H
#define BATCH_FILE_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* A number of threads from the command line: at least 1, or -1 after a message on stderr. */
static inline int32_t read_threads(const char *argument) {
  char *end = NULL;
  errno = 0;
  const long threads = strtol(argument, &end, 10);
  if (errno != 0 || end == argument || *end != '\0' || threads < 1 || threads > 256) {
    fprintf(stderr, "%s is no number of threads from 1 to 256\n", argument);
    return -1;
  }
  return (int32_t)threads;
}

/* Read `path` into *data (to be freed; aligned to 64 bytes) and the number of images into *images.
 * One image has `image_bytes` bytes. Returns 0, or -1 after a message on stderr. */
static int read_batch(const char *path, size_t image_bytes, void **data, int32_t *images) {
  int result = -1;
  long size = 0;
  size_t count = 0;
  *data = NULL;
  *images = 0;
  FILE *file = fopen(path, "rb");
  if (file == NULL) {
    perror(path);
    return -1;
  }
  /* A folder can be opened, and seems to have a size: only reading says what it is. */
  if ((fgetc(file) == EOF && ferror(file)) || fseek(file, 0, SEEK_END) != 0 ||
      (size = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0) {
    perror(path);
    goto done;
  }
  count = (size_t)size / image_bytes;
  if (count == 0 || count > INT32_MAX || (size_t)size % image_bytes != 0) {
    fprintf(stderr, "%s has %ld bytes, which is no whole number of images of %zu bytes\n", path,
            size, image_bytes);
    goto done;
  }
  /* aligned_alloc wants a size that is a multiple of the alignment. */
  *data = aligned_alloc(64, ((size_t)size + 63) / 64 * 64);
  if (*data == NULL) {
    fprintf(stderr, "no memory for %ld bytes\n", size);
    goto done;
  }
  if (fread(*data, 1, (size_t)size, file) != (size_t)size) {
    fprintf(stderr, "%s could not be read to its end\n", path);
    free(*data);
    *data = NULL;
    goto done;
  }
  *images = (int32_t)count;
  result = 0;
done:
  fclose(file);
  return result;
}

/* One line for each image: its number (from `first` on), the class of the largest logit, and all
 * logits with the nine digits that give every float32 back exactly. */
static int print_logits(const float *logits, int32_t first, int32_t images, size_t classes) {
  for (int32_t image = 0; image < images; image++) {
    const float *row = logits + (size_t)image * classes;
    size_t best = 0;
    for (size_t i = 1; i < classes; i++)
      if (row[i] > row[best]) best = i;
    printf("image %ld class %zu logits", (long)first + image, best);
    for (size_t i = 0; i < classes; i++) printf(" %.9g", (double)row[i]);
    printf("\n");
  }
  if (fflush(stdout) != 0 || ferror(stdout)) {
    perror("standard output");
    return -1;
  }
  return 0;
}

#endif
