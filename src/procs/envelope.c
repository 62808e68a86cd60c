/* envelope.c: see envelope.h. */
#include "procs/envelope.h"

#include <stdlib.h>
#include <string.h>

typedef struct envelope {
  uint64_t size_bytes;   /* of the bytes */
  uint64_t buffer_count; /* records that follow */
} envelope;

typedef struct record {
  uint64_t offset, size_bytes;
} record;

enum { LINE = 64 };

static size_t align(size_t size_bytes) {
  return (size_bytes + LINE - 1) / LINE * LINE;
}

static bool does_stay(const bool *stays, size_t number) {
  return stays != NULL && stays[number];
}

size_t ac__envelope_bytes(const ac_message *message, const bool *stays) {
  const size_t most = SIZE_MAX / 4;
  if (message->bytes.size_bytes > most ||
      message->buffer_count > most / sizeof(record))
    return SIZE_MAX;
  size_t total = sizeof(envelope) + message->buffer_count * sizeof(record) +
                 message->bytes.size_bytes;
  for (size_t i = 0; i < message->buffer_count; i++) {
    if (message->buffers[i].size_bytes > most || total > most)
      return SIZE_MAX;
    if (!does_stay(stays, i))
      total = align(total) + message->buffers[i].size_bytes;
  }
  return total;
}

static void copy(uint8_t *to, const ac_bytes *from) {
  if (from->size_bytes > 0)
    memcpy(to, from->data, from->size_bytes);
}

void ac__envelope_write(const ac__segment *arena, uint8_t *to,
                        const ac_message *message, const bool *stays) {
  envelope head = {message->bytes.size_bytes, message->buffer_count};
  size_t at = sizeof head + message->buffer_count * sizeof(record);
  memcpy(to, &head, sizeof head);
  copy(to + at, &message->bytes);
  at += message->bytes.size_bytes;
  for (size_t i = 0; i < message->buffer_count; i++) {
    const ac_bytes *buffer = &message->buffers[i];
    record record = {.size_bytes = buffer->size_bytes};
    if (does_stay(stays, i)) {
      record.offset = AC__IN_ARENA |
                      (uint64_t)((const uint8_t *)buffer->data - arena->base);
    } else {
      record.offset = at = align(at);
      copy(to + at, buffer);
      at += buffer->size_bytes;
    }
    memcpy(to + sizeof head + i * sizeof record, &record, sizeof record);
  }
}

/* Where a buffer lies; NULL if it leaves what it should lie in. */
static const uint8_t *place(const ac__segment *arena, const uint8_t *from,
                            size_t size_bytes, const record *record) {
  uint64_t offset = record->offset & ~AC__IN_ARENA;
  if (record->offset != offset) {
    from = arena->base;
    size_bytes = arena->size_bytes;
  }
  return offset <= size_bytes && record->size_bytes <= size_bytes - offset
             ? from + offset
             : NULL;
}

bool ac__envelope_read(const ac__segment *arena, const uint8_t *from,
                       size_t size_bytes, ac_message *ret_message,
                       ac_bytes **buffers, size_t *buffers_room) {
  envelope head;
  if (size_bytes < sizeof head)
    return false;
  memcpy(&head, from, sizeof head);
  size_t left = size_bytes - sizeof head;
  if (head.buffer_count > left / sizeof(record) ||
      head.size_bytes > left - head.buffer_count * sizeof(record))
    return false;
  if (head.buffer_count > *buffers_room) {
    ac_bytes *grown =
        realloc(*buffers, (size_t)head.buffer_count * sizeof *grown);
    if (grown == NULL)
      return false;
    *buffers = grown;
    *buffers_room = (size_t)head.buffer_count;
  }
  for (size_t i = 0; i < head.buffer_count; i++) {
    record record;
    memcpy(&record, from + sizeof head + i * sizeof record, sizeof record);
    const uint8_t *at = place(arena, from, size_bytes, &record);
    if (at == NULL)
      return false;
    (*buffers)[i] = (ac_bytes){at, (size_t)record.size_bytes};
  }
  *ret_message = (ac_message){
      .bytes = {from + sizeof head + head.buffer_count * sizeof(record),
                (size_t)head.size_bytes},
      .buffers = *buffers,
      .buffer_count = (size_t)head.buffer_count};
  return true;
}
