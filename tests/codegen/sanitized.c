/* The driver and the threads of a plain-C network under a sanitizer, used in every way it allows.
 *
 * The kernels stand here and not in LLVM's object file, so that the sanitizer sees every access:
 * chunks of one loop go to any thread, and the next loop reads what they wrote.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model.h"

#define MOST_IMAGES 3
#define CHECK(condition)                                            \
  do {                                                              \
    if (!(condition)) {                                             \
      fprintf(stderr, "line %d: %s is false\n", __LINE__, #condition); \
      exit(1);                                                      \
    }                                                               \
  } while (0)

enum { ROW = 8, ELEMENTS = MODEL_INPUT_ELEMENTS };
_Static_assert(MODEL_OUTPUT_ELEMENTS == ELEMENTS, "the network keeps its shape");

int32_t model_add_one(const void *from, const void *to, int32_t begin, int32_t end);
int32_t model_add_one_0over0(const void *both, int32_t begin, int32_t end);

int32_t model_add_one(const void *from, const void *to, int32_t begin, int32_t end) {
  for (int32_t i = begin * ROW; i < end * ROW; i++)
    ((float *)(uintptr_t)to)[i] = ((const float *)from)[i] + 1.0f;
  return 0;
}

int32_t model_add_one_0over0(const void *both, int32_t begin, int32_t end) {
  return model_add_one(both, both, begin, end);
}

/* Run a batch in memory of exactly its size, `shift` elements behind an aligned address. */
static int run(int32_t batch, size_t shift) {
  const size_t count = (size_t)batch * ELEMENTS;
  float *input = calloc(count + shift, sizeof *input);
  float *output = malloc((count + shift) * sizeof *output);
  CHECK(input != NULL && output != NULL);
  for (size_t i = 0; i < count; i++) input[shift + i] = (float)(i % 1000);
  const int code = model_run(input + shift, output + shift, batch);
  if (code == MODEL_OK)
    for (size_t i = 0; i < count; i++)
      CHECK(output[shift + i] == (float)(i % 1000) + KERNELS);
  free(input);
  free(output);
  return code;
}

static void refuses(void) {
  static float data[ELEMENTS + 1];
  static float other[ELEMENTS];
  const int32_t batches[] = {0, -1, INT32_MIN};
  CHECK(model_run(NULL, other, 1) == MODEL_ERROR_NULL);
  CHECK(model_run(data, NULL, 1) == MODEL_ERROR_NULL);
  CHECK(model_run(data, data + 1, 1) == MODEL_ERROR_OVERLAP);
  CHECK(model_run((const float *)(uintptr_t)((uintptr_t)data + 1), other, 1) ==
        MODEL_ERROR_ALIGNMENT);
  for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
    CHECK(model_run(data, other, batches[i]) == MODEL_ERROR_BATCH);
  const int32_t counts[] = {0, -1, INT32_MIN, MODEL_MAX_THREADS + 1, INT32_MAX};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    CHECK(model_set_threads(counts[i]) == MODEL_ERROR_THREADS);
  const int32_t numbers[] = {-1, INT32_MIN, MODEL_INPUT_COUNT, INT32_MAX};
  int32_t rank = 0;
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
    CHECK(model_input_shape(numbers[i], &rank) == NULL && model_input_dtype(numbers[i]) == NULL);
  CHECK(model_input_shape(0, NULL) == NULL && model_output_shape(NULL) == NULL);
  for (int code = -2; code < 100; code++) CHECK(strlen(model_error(code)) > 0);
}

static int32_t seen;

static void observe(const model_event *event, void *user) {
  float first;
  CHECK(user == &seen && event->bytes == ELEMENTS * sizeof(float));
  memcpy(&first, event->data, sizeof first);
  CHECK(first == (float)(event->call + 1) + (float)(event->image * ELEMENTS % 1000));
  CHECK(run(1, 0) == MODEL_ERROR_BUSY && model_set_threads(2) == MODEL_ERROR_BUSY);
  seen++;
}

static void *compete(void *argument) {
  intptr_t good = 0;
  for (int i = 0; i < 60; i++) {
    const int code = i % 20 == 7 ? model_set_threads(1 + i % 4) : run(1 + i % 2, (size_t)i % 3);
    CHECK(code == MODEL_OK || code == MODEL_ERROR_BUSY);
    good += code == MODEL_OK;
  }
  *(intptr_t *)argument = good;
  return NULL;
}

static void compete_all(void) {
  pthread_t threads[4];
  intptr_t good[4];
  for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, compete, &good[i]) == 0);
  for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(good[0] + good[1] + good[2] + good[3] > 0);
}

/* ASan and TSan have locks of their own, which a fork may copy in the hands of a starting thread. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define FORKS
#endif

#ifdef FORKS
static void forked(void) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    CHECK(run(2, 1) == MODEL_OK);
    CHECK(model_set_threads(2) == MODEL_OK && run(2, 1) == MODEL_OK);
    CHECK(model_set_threads(1) == MODEL_OK);
    _exit(0);
  }
  int status = 1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}
#endif

int main(void) {
  const int32_t counts[] = {1, 2, 3, 8, 2, 1, 4};
  CHECK(model_init(NULL) == MODEL_OK);
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    CHECK(model_set_threads(counts[i]) == MODEL_OK);
    refuses();
    for (int32_t batch = 1; batch <= MOST_IMAGES; batch++)
      for (size_t shift = 0; shift < 2; shift++) CHECK(run(batch, shift) == MODEL_OK);
#ifdef FORKS
    forked();
#endif
  }
  model_set_observer(observe, &seen);
  CHECK(run(2, 0) == MODEL_OK && seen == 2 * KERNELS);
  model_set_observer(NULL, NULL);
  compete_all();
  puts("done"); /* the pool's threads end with the program */
  return 0;
}
