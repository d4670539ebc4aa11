/* A worker and subscriber on a node of ei: worker NAME COOKIE GATEWAY, with NAME before the @.
 *
 * It registers for the store foreign, subscribes to the topic foreign, publishes to it, and says so
 * on standard output. Then it answers calls, from whichever node connects, until one says die. */
#include <ei.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <arpa/inet.h>

#define EVENTS "esdb_channel_events"
#define REGISTRY "esdb_gater_worker_registry"
#define MAX_NODES 8

static ei_cnode node;
static erlang_pid self;
static int dying;

static void fail(const char *what) {
    fprintf(stderr, "%s failed\n", what);
    exit(1);
}

static void say(const char *what, const char *term, int index) {
    char *text = NULL;
    ei_s_print_term(&text, term, &index);
    printf("%s %s\n", what, text);
    fflush(stdout);
    free(text);
}

/* {'$gen_call', {Self, Number}, {What, First, Second}}, of which the last two are encoded. */
static void call(int fd, char *server, long number, const char *what, ei_x_buff *first,
                 ei_x_buff *second) {
    ei_x_buff x;
    ei_x_new_with_version(&x);
    ei_x_encode_tuple_header(&x, 3);
    ei_x_encode_atom(&x, "$gen_call");
    ei_x_encode_tuple_header(&x, 2);
    ei_x_encode_pid(&x, &self);
    ei_x_encode_long(&x, number);
    ei_x_encode_tuple_header(&x, 3);
    ei_x_encode_atom(&x, what);
    ei_x_append(&x, first);
    ei_x_append(&x, second);
    if (ei_reg_send(&node, fd, server, x.buff, x.index) < 0) fail("ei_reg_send");
    ei_x_free(&x);
}

/* Answers {'$gen_call', From, Request} over the connection it came by. */
static void answer(int fd, const char *buff, int index) {
    int arity, tag, request, end;
    erlang_pid caller;
    ei_x_buff x;
    char atom[MAXATOMLEN];
    if (ei_decode_tuple_header(buff, &index, &arity) < 0 || arity != 2) return;
    if (ei_decode_pid(buff, &index, &caller) < 0) return;
    tag = index;
    if (ei_skip_term(buff, &index) < 0) return;
    request = end = index;
    if (ei_skip_term(buff, &end) < 0) return;
    ei_x_new_with_version(&x);
    ei_x_encode_tuple_header(&x, 2);
    ei_x_append_buf(&x, buff + tag, request - tag);
    ei_x_encode_tuple_header(&x, 2);
    ei_x_encode_atom(&x, "ok");
    ei_x_append_buf(&x, buff + request, end - request);
    if (ei_send(fd, &caller, x.buff, x.index) < 0) fail("ei_send");
    ei_x_free(&x);
    dying = ei_decode_atom(buff, &request, atom) == 0 && strcmp(atom, "die") == 0;
}

/* Handles the next message of a connection; whether it stands. */
static int handle(int fd) {
    static const char *done[] = {"registered", "subscribed", "published"};
    erlang_msg msg;
    ei_x_buff x;
    char atom[MAXATOMLEN];
    int version, arity, index = 0, got;
    long number;
    ei_x_new(&x);
    got = ei_xreceive_msg(fd, &msg, &x);
    if (got == ERL_TICK) goto stands;
    if (got == ERL_ERROR) {
        ei_x_free(&x);
        return 0;
    }
    if (msg.msgtype != ERL_SEND && msg.msgtype != ERL_REG_SEND) goto stands;
    if (ei_decode_version(x.buff, &index, &version) < 0
        || ei_decode_tuple_header(x.buff, &index, &arity) < 0) goto stands;
    if (ei_decode_long(x.buff, &index, &number) == 0) {
        if (number >= 0 && number < 3) say(done[number], x.buff, index);
    } else if (ei_decode_atom(x.buff, &index, atom) == 0) {
        if (strcmp(atom, "channel_message") == 0) {
            if (ei_skip_term(x.buff, &index) == 0 && ei_skip_term(x.buff, &index) == 0)
                say("received", x.buff, index);
        } else if (strcmp(atom, "$gen_call") == 0) {
            answer(fd, x.buff, index);
        }
    }
stands:
    ei_x_free(&x);
    return 1;
}

int main(int argc, char **argv) {
    struct pollfd fds[MAX_NODES];
    nfds_t count = 2;
    int port = 0;
    char full[MAXNODELEN];
    struct in_addr address = {htonl(INADDR_LOOPBACK)};
    ei_x_buff store, topic, pid;
    if (argc != 4) fail("usage");
    ei_init();
    snprintf(full, sizeof full, "%s@127.0.0.1", argv[1]);
    if (ei_connect_xinit(&node, "127.0.0.1", argv[1], full, &address, argv[2], getpid()) < 0)
        fail("ei_connect_xinit");
    if ((fds[0].fd = ei_xlisten(&node, &address, &port, 5)) < 0) fail("ei_xlisten");
    if (ei_publish(&node, port) < 0) fail("ei_publish");
    if ((fds[1].fd = ei_connect(&node, argv[3])) < 0) fail("ei_connect");
    self = *ei_self(&node);
    fds[0].events = fds[1].events = POLLIN;

    ei_x_new(&store);
    ei_x_encode_atom(&store, "foreign");
    ei_x_new(&topic);
    ei_x_encode_binary(&topic, "foreign", 7);
    ei_x_new(&pid);
    ei_x_encode_pid(&pid, &self);
    call(fds[1].fd, REGISTRY, 0, "register", &store, &pid);
    call(fds[1].fd, EVENTS, 1, "subscribe", &topic, &pid);
    call(fds[1].fd, EVENTS, 2, "publish", &topic, &store);

    while (!dying && poll(fds, count, -1) > 0) {
        for (nfds_t at = 1; at < count && !dying; at++) {
            if (fds[at].revents && !handle(fds[at].fd)) {
                /* The gateway must not go; others may. */
                if (at == 1) fail("the connection to the gateway");
                fds[at].fd = -1;
            }
        }
        if (fds[0].revents && count < MAX_NODES) {
            ErlConnect peer;
            int fd = ei_accept(&node, fds[0].fd, &peer);
            if (fd >= 0) {
                fds[count].fd = fd;
                fds[count].revents = 0;
                fds[count++].events = POLLIN;
            }
        }
    }
    return 0;
}
