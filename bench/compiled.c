/* What publish_many is measured against: rabbitmq-c with a message that is ready, confirms counted by tag.
 *
 * compiled EXCHANGE KEY WINDOW PROPERTIES BODY: the last two are files; the broker's URL is in BENCH_URL. A line on
 * standard input is a number of messages; the answer is an empty line when the broker has confirmed all of them.
 */
#include <err.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>

static amqp_connection_state_t broker;

static void need(int status, const char *step) {
  if (status != AMQP_STATUS_OK) errx(1, "%s: %s", step, amqp_error_string2(status));
}

static void need_reply(amqp_rpc_reply_t reply, const char *step) {
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) errx(1, "%s: refused by the broker", step);
}

static amqp_bytes_t contents(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) err(1, "%s", path);
  amqp_bytes_t found = amqp_bytes_malloc((size_t)ftell(file));
  rewind(file);
  if (fread(found.bytes, 1, found.len, file) != found.len) err(1, "%s", path);
  fclose(file);
  return found;
}

static void log_in(char *url) {
  struct amqp_connection_info at;
  need(amqp_parse_url(url, &at), "BENCH_URL");
  broker = amqp_new_connection();
  need(amqp_socket_open(amqp_tcp_socket_new(broker), at.host, at.port), "connect");
  need_reply(amqp_login(broker, at.vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, at.user, at.password), "login");
  amqp_channel_open(broker, 1);
  need_reply(amqp_get_rpc_reply(broker), "open a channel");
  amqp_confirm_select(broker, 1);
  need_reply(amqp_get_rpc_reply(broker), "select confirms");
}

/* Waits for the next confirm and returns how many messages it settles. */
static long settle(bool *open, long *oldest, long before) {
  amqp_frame_t frame;
  struct timeval patience = {30, 0};
  amqp_maybe_release_buffers(broker);
  need(amqp_simple_wait_frame_noblock(broker, &frame, &patience), "wait for a confirm");
  if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
    errx(1, "the broker answered something else than a confirm");
  amqp_basic_ack_t *ack = frame.payload.method.decoded;
  long last = (long)ack->delivery_tag - before, settled = 0;
  for (long tag = ack->multiple ? *oldest : last; tag <= last; tag++) {
    settled += open[tag];
    open[tag] = false;
  }
  if (ack->multiple) *oldest = last + 1;
  return settled;
}

int main(int argc, char **argv) {
  if (argc != 6) errx(2, "usage: compiled EXCHANGE KEY WINDOW PROPERTIES BODY");
  amqp_bytes_t exchange = amqp_cstring_bytes(argv[1]), key = amqp_cstring_bytes(argv[2]);
  amqp_bytes_t encoded = contents(argv[4]), body = contents(argv[5]);
  long window = atol(argv[3]), before = 0;
  void *properties;
  amqp_pool_t pool;
  init_amqp_pool(&pool, 4096);
  need(amqp_decode_properties(AMQP_BASIC_CLASS, &pool, encoded, &properties), "properties");
  log_in(getenv("BENCH_URL"));
  char line[32];
  while (fgets(line, sizeof line, stdin)) {
    long count = atol(line), sent = 0, waiting = 0, oldest = 1;
    bool *open = calloc((size_t)count + 1, sizeof *open);
    if (!open) err(1, "%ld messages", count);
    while (sent < count || waiting) {
      if (sent < count && waiting < window) {
        need(amqp_basic_publish(broker, 1, exchange, key, 1, 0, properties, body), "publish");
        open[++sent] = true;
        waiting++;
      } else {
        waiting -= settle(open, &oldest, before);
      }
    }
    free(open);
    before += count;
    puts("");
    fflush(stdout);
  }
}
