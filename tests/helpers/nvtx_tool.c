// What a profiler such as Nsight Systems is to NVTX: a library that NVTX_INJECTION64_PATH names. It writes every range to
// stderr, a line at its beginning and one at its end. Tables, numbers and layouts are those of nvtx3/nvtxDetail/nvtxTypes.h
// and nvToolsExt.h, version 3.

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { CALLBACKS = 1, CORE2 = 5, RANGE_PUSH = 4, RANGE_POP = 5, REGISTER_STRING = 10, DOMAIN_CREATE = 12 };
typedef struct {
  uint16_t version, size;
  uint32_t category;
  int32_t color_type;
  uint32_t color;
  int32_t payload_type, reserved;
  uint64_t payload;
  int32_t message_type;
  const char *message;  // what register_string gave for it
} Attributes;
typedef struct {
  size_t size;
  int (*table)(int module, void ****table, unsigned *count);
} Callbacks;

static void *named(const char *name) { return strdup(name); }
static void *domain_create(const char *name) { return named(name); }
static void *register_string(void *domain, const char *text) { return (void)domain, named(text); }
static int range_push(const char *domain, const Attributes *range) {
  return fprintf(stderr, "push %s %s %lu\n", domain, range->message, (unsigned long)pthread_self());
}
static int range_pop(const char *domain) {
  return fprintf(stderr, "pop %s %lu\n", domain, (unsigned long)pthread_self());
}

int InitializeInjectionNvtx2(const void *(*export_table)(uint32_t id)) {
  const Callbacks *callbacks = export_table(CALLBACKS);
  void ***table;
  unsigned count;
  if (!callbacks || !callbacks->table(CORE2, &table, &count) || count <= DOMAIN_CREATE) return 0;
  *table[RANGE_PUSH] = range_push;
  *table[RANGE_POP] = range_pop;
  *table[REGISTER_STRING] = register_string;
  *table[DOMAIN_CREATE] = domain_create;
  return 1;
}
