/* envelope_test.c: what is written is read back; what is no message is refused.
 */
#include "procs/envelope.h"

#include "check.h"

#include <string.h>

enum { ROOM = 1 << 16 };

static const ac__segment no_arena;

typedef struct reader {
  ac_message message;
  ac_bytes *buffers;
  size_t room;
} reader;

static void reader_fini(reader *r) {
  free(r->buffers);
  *r = (reader){0};
}

/* In memory of just that size, so that a read beyond it is seen. */
static bool read_from(reader *r, const ac__segment *arena, const uint8_t *from,
                      size_t size_bytes) {
  uint8_t *exact = malloc(size_bytes > 0 ? size_bytes : 1);
  memcpy(exact, from, size_bytes);
  bool is_read = ac__envelope_read(arena, exact, size_bytes, &r->message,
                                   &r->buffers, &r->room);
  if (is_read && r->message.bytes.size_bytes > 0)
    CHECK(((const uint8_t *)r->message.bytes.data)[0] ==
          exact[16 + 16 * r->message.buffer_count]);
  free(exact);
  return is_read;
}

static bool is_same(const ac_bytes *a, const ac_bytes *b) {
  return a->size_bytes == b->size_bytes &&
         (a->size_bytes == 0 || memcmp(a->data, b->data, a->size_bytes) == 0);
}

static void check_round(const ac_message *message) {
  static _Alignas(64) uint8_t room[ROOM + 1];
  reader r = {0};
  size_t size_bytes = ac__envelope_bytes(message, NULL);
  if (!CHECK(size_bytes <= ROOM))
    return;
  room[size_bytes] = 0xa5;
  ac__envelope_write(NULL, room, message, NULL);
  CHECK_INT(room[size_bytes], 0xa5);
  if (!CHECK(ac__envelope_read(&no_arena, room, size_bytes, &r.message,
                               &r.buffers, &r.room)))
    return;
  CHECK(is_same(&r.message.bytes, &message->bytes));
  CHECK_INT(r.message.buffer_count, message->buffer_count);
  for (size_t i = 0; i < message->buffer_count; i++) {
    CHECK(is_same(&r.message.buffers[i], &message->buffers[i]));
    CHECK_INT((uintptr_t)r.message.buffers[i].data % 64, 0);
  }
  reader_fini(&r);
}

TEST("bytes and buffers of any sizes come back, buffers on cache lines") {
  static const size_t sizes[] = {0, 1, 15, 16, 63, 64, 65, 480, 4096};
  enum { SIZES = sizeof sizes / sizeof *sizes };
  static uint8_t data[4096];
  for (size_t i = 0; i < sizeof data; i++)
    data[i] = (uint8_t)(i * 7 + i / 251);
  for (size_t bytes = 0; bytes < SIZES; bytes++)
    for (size_t count = 0; count <= SIZES; count++) {
      ac_bytes buffers[SIZES];
      for (size_t i = 0; i < count; i++)
        buffers[i] = (ac_bytes){data + i, sizes[(i + bytes) % SIZES] / 2};
      check_round(&(ac_message){.bytes = {data, sizes[bytes]},
                                .buffers = buffers,
                                .buffer_count = count});
    }
  check_round(&(ac_message){0});
}

TEST("a buffer in the arena stays where it is, whole or in part") {
  static _Alignas(64) uint8_t memory[4096], room[256];
  ac__segment arena = {.fd = -1, .base = memory, .size_bytes = sizeof memory};
  uint8_t outside[8] = "outside";
  ac_bytes buffers[3] = {
      {memory, sizeof memory}, {memory + 100, 3}, {outside, sizeof outside}};
  ac_message message = {
      .bytes = {"abc", 3}, .buffers = buffers, .buffer_count = 3};
  const bool stays[3] = {true, true, false};
  reader r = {0};
  size_t size_bytes = ac__envelope_bytes(&message, stays);
  CHECK_INT(size_bytes, 128 + sizeof outside);
  ac__envelope_write(&arena, room, &message, stays);
  if (CHECK(ac__envelope_read(&arena, room, size_bytes, &r.message, &r.buffers,
                              &r.room))) {
    CHECK(r.message.buffers[0].data == memory);
    CHECK_INT(r.message.buffers[0].size_bytes, sizeof memory);
    CHECK(r.message.buffers[1].data == memory + 100);
    CHECK_INT(r.message.buffers[1].size_bytes, 3);
    CHECK(r.message.buffers[2].data == room + 128);
  }
  reader_fini(&r);
}

TEST("one reader's array of buffers serves messages of all lengths") {
  static _Alignas(64) uint8_t room[ROOM];
  ac_bytes buffers[40] = {{"x", 1}};
  reader r = {0};
  for (size_t i = 0; i < 40; i++)
    buffers[i] = buffers[0];
  for (size_t count = 40; count > 0; count /= 3) {
    ac_message message = {.buffers = buffers, .buffer_count = count};
    size_t size_bytes = ac__envelope_bytes(&message, NULL);
    ac__envelope_write(NULL, room, &message, NULL);
    CHECK(ac__envelope_read(&no_arena, room, size_bytes, &r.message, &r.buffers,
                            &r.room));
    CHECK_INT(r.message.buffer_count, count);
    CHECK_INT(r.room, 40);
  }
  reader_fini(&r);
}

TEST("a message whose size cannot be counted is refused before it is written") {
  ac_bytes huge[2] = {{"", SIZE_MAX}, {"", SIZE_MAX / 4}};
  CHECK(ac__envelope_bytes(&(ac_message){.bytes = huge[0]}, NULL) == SIZE_MAX);
  CHECK(ac__envelope_bytes(
            &(ac_message){.buffers = huge, .buffer_count = SIZE_MAX / 16},
            NULL) == SIZE_MAX);
  CHECK(ac__envelope_bytes(&(ac_message){.buffers = huge, .buffer_count = 1},
                           NULL) == SIZE_MAX);
  ac_bytes many[9];
  for (int i = 0; i < 9; i++)
    many[i] = huge[1];
  CHECK(ac__envelope_bytes(&(ac_message){.buffers = many, .buffer_count = 9},
                           NULL) == SIZE_MAX);
}

/* An envelope by hand: numbers in the order in which they lie there. */
static bool is_read(const ac__segment *arena, const uint64_t *words,
                    size_t count, size_t size_bytes) {
  uint8_t room[512] = {0};
  reader r = {0};
  memcpy(room, words, count * sizeof *words);
  bool is_good = read_from(&r, arena, room, size_bytes);
  reader_fini(&r);
  return is_good;
}

TEST("what leaves its envelope or the arena is refused") {
  static uint8_t memory[256];
  const ac__segment arena = {
      .fd = -1, .base = memory, .size_bytes = sizeof memory};
#define READ(size, ...)                                                        \
  is_read(&arena, (const uint64_t[]){__VA_ARGS__},                             \
          sizeof((const uint64_t[]){__VA_ARGS__}) / 8, size)
  CHECK(READ(16, 0, 0));
  CHECK(!READ(15, 0, 0));
  CHECK(!READ(0, 0, 0));
  CHECK(READ(20, 4, 0));
  CHECK(!READ(19, 4, 0));
  CHECK(!READ(64, UINT64_MAX, 0));
  CHECK(!READ(64, 0, UINT64_MAX));
  CHECK(!READ(64, 0, UINT64_MAX / 16 + 2));
  CHECK(!READ(64, UINT64_MAX - 15, 1)); /* a sum that wraps */
  CHECK(READ(64, 0, 1, 32, 32));
  CHECK(!READ(64, 0, 1, 32, 33));
  CHECK(!READ(64, 0, 1, 65, 0));
  CHECK(READ(64, 0, 1, 64, 0));
  CHECK(!READ(64, 0, 1, 33, UINT64_MAX - 16));
  CHECK(READ(64, 0, 1, AC__IN_ARENA | 0, 256));
  CHECK(READ(64, 0, 1, AC__IN_ARENA | 256, 0));
  CHECK(!READ(64, 0, 1, AC__IN_ARENA | 1, 256));
  CHECK(!READ(64, 0, 1, AC__IN_ARENA | 257, 0));
  CHECK(!READ(64, 0, 1, UINT64_MAX, 1));
  CHECK(!READ(64, 0, 4, 32, 1, 32, 1)); /* records beyond its end */
#undef READ
}

CHECK_MAIN
