/* Fuzzer: a message in shared memory that a task has written nonsense into.
 *
 * It is refused, or all that it names lies inside its envelope or the arena;
 * and then it can be written anew and read as the same.
 *
 * An input: a byte with the arena's size, in pieces of 16 bytes; the envelope.
 */
#include "procs/envelope.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { ARENA_MOST = 16 * 255, ROOM = 1 << 20 };

static uint8_t arena_bytes[ARENA_MOST];

static int is_in(const ac_bytes *what, const uint8_t *from, size_t size) {
  const uint8_t *at = what->data;
  return at >= from && at <= from + size &&
         what->size_bytes <= (size_t)(from + size - at);
}

static int is_same(const ac_bytes *a, const ac_bytes *b) {
  return a->size_bytes == b->size_bytes &&
         (a->size_bytes == 0 || memcmp(a->data, b->data, a->size_bytes) == 0);
}

static void write_anew(const ac__segment *arena, const ac_message *message) {
  static _Alignas(64) uint8_t room[ROOM];
  ac_message again;
  ac_bytes *buffers = NULL;
  size_t buffers_room = 0;
  bool *stays = malloc(message->buffer_count + 1);
  for (size_t i = 0; stays != NULL && i < message->buffer_count; i++)
    stays[i] = is_in(&message->buffers[i], arena->base, arena->size_bytes);
  size_t size = ac__envelope_bytes(message, stays);
  if (size <= sizeof room) /* buffers may overlap, and be many */
    ac__envelope_write(arena, room, message, stays);
  free(stays);
  if (size > sizeof room)
    return;
  int is_read =
      ac__envelope_read(arena, room, size, &again, &buffers, &buffers_room);
  FUZZ_CHECK(is_read);
  if (is_read) {
    FUZZ_CHECK(is_same(&again.bytes, &message->bytes));
    FUZZ_CHECK(again.buffer_count == message->buffer_count);
    for (size_t i = 0; i < again.buffer_count; i++)
      FUZZ_CHECK(is_same(&again.buffers[i], &message->buffers[i]));
  }
  free(buffers);
}

static void fuzz_one(const uint8_t *data, size_t size) {
  ac_message message;
  ac_bytes *buffers = NULL;
  size_t room = 0;
  if (size == 0)
    return;
  ac__segment arena = {
      .fd = -1, .base = arena_bytes, .size_bytes = 16 * (size_t)data[0]};
  data++, size--;
  if (ac__envelope_read(&arena, data, size, &message, &buffers, &room)) {
    FUZZ_CHECK(is_in(&message.bytes, data, size));
    FUZZ_CHECK(message.buffer_count <= room);
    for (size_t i = 0; i < message.buffer_count; i++)
      FUZZ_CHECK(is_in(&message.buffers[i], data, size) ||
                 is_in(&message.buffers[i], arena.base, arena.size_bytes));
    write_anew(&arena, &message);
  }
  free(buffers);
}

FUZZ_MAIN("envelope")
