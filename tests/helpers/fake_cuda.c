// A CUDA driver without a GPU: what PyCUDA calls for memory, streams and events, over the host's memory. All work runs at
// once. It refuses what a driver refuses: a call without a current context, memory it did not give or has taken back,
// more memory than there is. What is held can be asked for, so that a test sees what was not released.
//
// FAKE_INIT: what cuInit answers; FAKE_VERSION: the CUDA served; FAKE_BYTES: of the GPU; FAKE_INTEGRATED: 1 for a Jetson.

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_HANDLE = 400,
       ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801 };
enum { DEVICE, HOST, STREAM, EVENT, KINDS };
typedef unsigned long long ptr;
typedef struct { void *start; size_t size; int kind; } Piece;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Piece pieces[4096];
static int retained, broken;
static __thread int depth;   // of the thread's stack of contexts
static int the_context;      // its address is the context's handle

static long number(const char *name, long otherwise) {
  const char *value = getenv(name);
  return value ? atol(value) : otherwise;
}
static size_t held_bytes(void) {
  size_t sum = 0;
  for (int i = 0; i < 4096; ++i)
    if (pieces[i].start && pieces[i].kind == DEVICE) sum += pieces[i].size;
  return sum;
}
static int usable(void) { return broken ? broken : depth > 0 && retained > 0 ? OK : INVALID_CONTEXT; }

static int take(void **out, size_t size, int kind) {
  int status = usable();
  if (status) return status;
  pthread_mutex_lock(&lock);
  status = OUT_OF_MEMORY;
  if (kind != DEVICE || held_bytes() + size <= (size_t)number("FAKE_BYTES", 1 << 20))
    for (int i = 0; i < 4096 && status; ++i)
      if (!pieces[i].start) {
        pieces[i] = (Piece){aligned_alloc(256, (size + 255) / 256 * 256 + 256), size, kind};
        memset(pieces[i].start, 0xff, size);
        *out = pieces[i].start;
        status = OK;
      }
  pthread_mutex_unlock(&lock);
  return status;
}
static int give_back(void *start, int kind) {
  int status = usable();
  if (status) return status;
  pthread_mutex_lock(&lock);
  status = kind == DEVICE || kind == HOST ? INVALID_VALUE : INVALID_HANDLE;
  for (int i = 0; i < 4096; ++i)
    if (pieces[i].start == start && pieces[i].kind == kind) {
      free(start);
      pieces[i].start = NULL;
      status = OK;
      break;
    }
  pthread_mutex_unlock(&lock);
  return status;
}
static int inside(const void *start, size_t size, int kind) {
  const char *at = start;
  for (int i = 0; i < 4096; ++i)
    if (pieces[i].start && pieces[i].kind == kind && (char *)pieces[i].start <= at &&
        at + size <= (char *)pieces[i].start + pieces[i].size)
      return 1;
  return 0;
}
static int both(ptr device, size_t size, void *stream) {
  int status = usable();
  if (status) return status;
  return inside((void *)device, size, DEVICE) && inside(stream, 1, STREAM) ? OK : INVALID_VALUE;
}

// For tests.
int fake_held(int kind) {
  int count = 0;
  for (int i = 0; i < 4096; ++i) count += pieces[i].start && pieces[i].kind == kind;
  return count;
}
int fake_contexts(void) { return retained; }
int fake_depth(void) { return depth; }
void fake_break(int status) { broken = status; }

int cuInit(unsigned flags) { return number("FAKE_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = number("FAKE_VERSION", 13020); return OK; }
int cuGetErrorString(int error, const char **text) {
  *text = error == OUT_OF_MEMORY     ? "out of memory"
          : error == ILLEGAL_ADDRESS ? "an illegal memory access was encountered"
          : error == INVALID_CONTEXT ? "invalid device context"
                                     : "an error of the fake driver";
  return OK;
}
int cuGetErrorName(int error, const char **text) { return cuGetErrorString(error, text); }
int cuDeviceGetCount(int *count) { *count = 2; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < 2 ? OK : INVALID_DEVICE; }
int cuDeviceGetName(char *name, int length, int device) {
  strncpy(name, device ? "NVIDIA RTX 5090" : "NVIDIA RTX 4000 Ada", length);
  return OK;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? (device ? 12 : 8) : attribute == 76 ? (device ? 0 : 9)
         : attribute == 18 ? number("FAKE_INTEGRATED", 0) : 0;
  return OK;
}
int cuDeviceComputeCapability(int *major, int *minor, int device) {
  cuDeviceGetAttribute(major, 75, device);
  return cuDeviceGetAttribute(minor, 76, device);
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = number("FAKE_BYTES", 1 << 20); return OK; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &the_context; ++retained; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { --retained; return OK; }
int cuCtxPushCurrent_v2(void *context) { ++depth; return context == &the_context ? OK : INVALID_CONTEXT; }
int cuCtxPopCurrent_v2(void **context) { *context = &the_context; return depth > 0 ? (--depth, OK) : INVALID_CONTEXT; }
int cuCtxGetDevice(int *device) { *device = 0; return usable(); }
int cuCtxSynchronize(void) { return usable(); }

int cuMemAlloc_v2(ptr *out, size_t size) { return take((void **)out, size, DEVICE); }
int cuMemFree_v2(ptr start) { return give_back((void *)start, DEVICE); }
int cuMemHostAlloc(void **out, size_t size, unsigned flags) { return flags & 1 ? take(out, size, HOST) : INVALID_VALUE; }
int cuMemFreeHost(void *start) { return give_back(start, HOST); }
int cuMemHostGetDevicePointer_v2(ptr *out, void *host, unsigned flags) { *out = (ptr)host; return usable(); }
int cuMemGetInfo_v2(size_t *free_, size_t *total) {
  *total = number("FAKE_BYTES", 1 << 20);
  *free_ = *total - held_bytes();
  return usable();
}
int cuMemcpyHtoDAsync_v2(ptr to, const void *from, size_t size, void *stream) {
  int status = both(to, size, stream);
  if (status || !inside(from, size, HOST)) return status ? status : INVALID_VALUE;
  return memcpy((void *)to, from, size), OK;
}
int cuMemcpyDtoHAsync_v2(void *to, ptr from, size_t size, void *stream) {
  int status = both(from, size, stream);
  if (status || !inside(to, size, HOST)) return status ? status : INVALID_VALUE;
  return memcpy(to, (void *)from, size), OK;
}
int cuMemcpyDtoDAsync_v2(ptr to, ptr from, size_t size, void *stream) {
  int status = both(to, size, stream);
  if (status || !inside((void *)from, size, DEVICE)) return status ? status : INVALID_VALUE;
  return memcpy((void *)to, (void *)from, size), OK;
}
int cuMemsetD8Async(ptr to, unsigned char value, size_t size, void *stream) {
  int status = both(to, size, stream);
  return status ? status : (memset((void *)to, value, size), OK);
}

int cuStreamCreate(void **out, unsigned flags) { return flags == 1 ? take(out, 1, STREAM) : INVALID_VALUE; }
int cuStreamDestroy_v2(void *stream) { return give_back(stream, STREAM); }
int cuStreamSynchronize(void *stream) { return usable() ? usable() : inside(stream, 1, STREAM) ? OK : INVALID_HANDLE; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
  return usable() ? usable() : inside(stream, 1, STREAM) && inside(event, 16, EVENT) ? OK : INVALID_HANDLE;
}
int cuEventCreate(void **out, unsigned flags) { return flags == 0 ? take(out, sizeof(struct timespec), EVENT) : INVALID_VALUE; }
int cuEventDestroy_v2(void *event) { return give_back(event, EVENT); }
int cuEventRecord(void *event, void *stream) {
  if (usable() || !inside(event, 16, EVENT) || !inside(stream, 1, STREAM)) return usable() ? usable() : INVALID_HANDLE;
  clock_gettime(CLOCK_MONOTONIC, event);
  return OK;
}
int cuEventSynchronize(void *event) { return usable() ? usable() : inside(event, 16, EVENT) ? OK : INVALID_HANDLE; }
int cuEventElapsedTime(float *ms, struct timespec *a, struct timespec *b) {
  *ms = (b->tv_sec - a->tv_sec) * 1e3f + (b->tv_nsec - a->tv_nsec) * 1e-6f;
  return usable();
}
int cuEventElapsedTime_v2(float *ms, struct timespec *a, struct timespec *b) { return cuEventElapsedTime(ms, a, b); }
