/* An alternative: a gateway as one would write it in C with erl_interface. It
 * knows channels and subscribers, checks neither rates nor signatures, and
 * relays what it received in place with gathered writes.
 *
 * erl_interface makes the handshake and encodes terms; frames are read and
 * written here, as its own calls copy every message. Without DIST_HDR_ATOM_CACHE
 * and FRAGMENTS a frame is a length, 112, a control tuple and a payload, each
 * term with 131.
 *
 * usage: cnode_gateway NAME COOKIE-FILE, with NAME like x@127.0.0.1
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <ei.h>

enum { MAX_PEERS = 64, MAX_TOPICS = 2048, MAX_SUBSCRIBERS = 4096, READ_BYTES = 256 * 1024,
       GATHERED = 1024 };

struct peer {
    int fd; /* -1 in a free place */
    char node[MAXNODELEN + 1];
    char *in;
    size_t filled, room;
    struct iovec out[GATHERED];
    int gathered;
};

struct subscriber {
    erlang_pid pid;
    struct peer *peer;
    /* The frame up to the payload but for its length: 112, 131, {2, '', Pid}. */
    char head[300];
    int head_bytes;
};

struct topic {
    char channel[MAXATOMLEN_UTF8];
    char name[256];
    long name_bytes;
    struct subscriber *subscribers;
    int count;
};

static ei_cnode self;
static struct peer peers[MAX_PEERS];
static struct topic topics[MAX_TOPICS];
static int topic_count;
/* Lengths and bodies written to peers but not yet sent. */
static char scratch[4 << 20];
static size_t scratch_used;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void drop(struct peer *peer)
{
    close(peer->fd);
    peer->fd = -1;
    peer->gathered = 0;
    for (int t = 0; t < topic_count; t++)
        for (int s = topics[t].count - 1; s >= 0; s--)
            if (topics[t].subscribers[s].peer == peer)
                topics[t].subscribers[s] = topics[t].subscribers[--topics[t].count];
}

/* Sends all that was gathered for a peer, and waits for as long as that takes. */
static void flush(struct peer *peer)
{
    struct iovec *next = peer->out;
    int left = peer->gathered;
    while (left > 0 && peer->fd >= 0) {
        ssize_t sent = writev(peer->fd, next, left);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd writable = {.fd = peer->fd, .events = POLLOUT};
            poll(&writable, 1, 1000);
            continue;
        }
        if (sent < 0) {
            drop(peer);
            return;
        }
        while (left > 0 && (size_t)sent >= next->iov_len) {
            sent -= next->iov_len;
            next++;
            left--;
        }
        if (left > 0) {
            next->iov_base = (char *)next->iov_base + sent;
            next->iov_len -= sent;
        }
    }
    peer->gathered = 0;
}

static void flush_all(void)
{
    for (int p = 0; p < MAX_PEERS; p++)
        if (peers[p].fd >= 0)
            flush(&peers[p]);
    scratch_used = 0;
}

static void gather(struct peer *peer, const void *bytes, size_t count)
{
    if (peer->gathered == GATHERED)
        flush(peer);
    peer->out[peer->gathered++] = (struct iovec){.iov_base = (void *)bytes, .iov_len = count};
}

static char *scratch_bytes(size_t count)
{
    if (scratch_used + count > sizeof scratch)
        flush_all();
    char *bytes = scratch + scratch_used;
    scratch_used += count;
    return bytes;
}

/* A copy of a frame, with its length in front. */
static void gather_frame(struct peer *peer, const char *bytes, size_t count)
{
    char *frame = scratch_bytes(count + 4);
    uint32_t length = htonl(count);
    memcpy(frame, &length, 4);
    memcpy(frame + 4, bytes, count);
    gather(peer, frame, count + 4);
}

static int encode_send_head(char *out, const erlang_pid *to)
{
    int at = 0;
    out[at++] = 112;
    ei_encode_version(out, &at);
    ei_encode_tuple_header(out, &at, 3);
    ei_encode_long(out, &at, 2);
    ei_encode_atom(out, &at, "");
    ei_encode_pid(out, &at, to);
    return at;
}

static int same_pid(const erlang_pid *a, const erlang_pid *b)
{
    return a->num == b->num && a->serial == b->serial && a->creation == b->creation
        && strcmp(a->node, b->node) == 0;
}

static struct topic *topic_of(const char *channel, const char *name, long bytes, int make)
{
    for (int t = 0; t < topic_count; t++)
        if (topics[t].name_bytes == bytes && memcmp(topics[t].name, name, bytes) == 0
            && strcmp(topics[t].channel, channel) == 0)
            return &topics[t];
    if (!make || topic_count == MAX_TOPICS)
        return NULL;
    struct topic *topic = &topics[topic_count++];
    strcpy(topic->channel, channel);
    memcpy(topic->name, name, bytes);
    topic->name_bytes = bytes;
    topic->subscribers = calloc(MAX_SUBSCRIBERS, sizeof *topic->subscribers);
    return topic;
}

static void subscribe(struct topic *topic, const erlang_pid *pid)
{
    struct peer *peer = NULL;
    for (int p = 0; p < MAX_PEERS; p++)
        if (peers[p].fd >= 0 && strcmp(peers[p].node, pid->node) == 0)
            peer = &peers[p];
    for (int s = 0; s < topic->count; s++)
        if (same_pid(&topic->subscribers[s].pid, pid))
            return;
    if (peer == NULL || topic->count == MAX_SUBSCRIBERS)
        return;
    struct subscriber *new = &topic->subscribers[topic->count++];
    new->pid = *pid;
    new->peer = peer;
    new->head_bytes = encode_send_head(new->head, pid);

    /* {1, OurPid, Pid}: a link tells when it ends; erl_interface offers no monitors. */
    char out[1024];
    int at = 0;
    out[at++] = 112;
    ei_encode_version(out, &at);
    ei_encode_tuple_header(out, &at, 3);
    ei_encode_long(out, &at, 1);
    ei_encode_pid(out, &at, ei_self(&self));
    ei_encode_pid(out, &at, pid);
    gather_frame(peer, out, at);
}

static void forget(const erlang_pid *pid)
{
    for (int t = 0; t < topic_count; t++)
        for (int s = 0; s < topics[t].count; s++)
            if (same_pid(&topics[t].subscribers[s].pid, pid)) {
                topics[t].subscribers[s] = topics[t].subscribers[--topics[t].count];
                break;
            }
}

/* To each subscriber {channel_message, Channel, Topic, Message}, the message from where it lies. */
static void publish(const char *channel, const char *name, long name_bytes,
                    const char *message, size_t message_bytes)
{
    struct topic *topic = topic_of(channel, name, name_bytes, 0);
    if (topic == NULL || topic->count == 0)
        return;
    char opening[600];
    int at = 0;
    ei_encode_version(opening, &at);
    ei_encode_tuple_header(opening, &at, 4);
    ei_encode_atom(opening, &at, "channel_message");
    ei_encode_atom(opening, &at, channel);
    ei_encode_binary(opening, &at, name, name_bytes);
    /* A short message is copied too: one more vector costs more than that. */
    size_t copied = message_bytes <= 512 ? message_bytes : 0;
    for (int s = 0; s < topic->count; s++) {
        struct subscriber *to = &topic->subscribers[s];
        char *out = scratch_bytes(4 + to->head_bytes + at + copied), *next = out + 4;
        uint32_t length = htonl(to->head_bytes + at + message_bytes);
        memcpy(out, &length, 4);
        next = mempcpy(next, to->head, to->head_bytes);
        next = mempcpy(next, opening, at);
        next = mempcpy(next, message, copied);
        gather(to->peer, out, next - out);
        if (copied == 0)
            gather(to->peer, message, message_bytes);
    }
}

/* Carries out {Operation, ...} for a channel; the reply, if it is wanted, goes to `reply`. */
static void operate(const char *server, const char *in, int at, ei_x_buff *reply)
{
    char operation[MAXATOMLEN_UTF8], name[256];
    int arity, type, size;
    long bytes;
    if (ei_decode_tuple_header(in, &at, &arity) || ei_decode_atom(in, &at, operation))
        goto unknown;
    if (strcmp(operation, "is_auth") == 0) {
        ei_x_encode_atom(reply, "yes");
        return;
    }
    if (ei_get_type(in, &at, &type, &size) || type != ERL_BINARY_EXT || size > 255
        || ei_decode_binary(in, &at, name, &bytes))
        goto unknown;
    if (strcmp(operation, "publish") == 0) {
        int from = at;
        if (ei_skip_term(in, &at))
            goto unknown;
        publish(server, name, bytes, in + from, at - from);
    } else if (strcmp(operation, "subscribe") == 0) {
        erlang_pid pid;
        struct topic *topic = topic_of(server, name, bytes, 1);
        if (topic == NULL || ei_decode_pid(in, &at, &pid))
            goto unknown;
        subscribe(topic, &pid);
    } else if (strcmp(operation, "get_subscribers") == 0) {
        struct topic *topic = topic_of(server, name, bytes, 0);
        for (int s = 0; topic != NULL && s < topic->count; s++) {
            ei_x_encode_list_header(reply, 1);
            ei_x_encode_pid(reply, &topic->subscribers[s].pid);
        }
        ei_x_encode_empty_list(reply);
        return;
    } else
        goto unknown;
    ei_x_encode_atom(reply, "ok");
    return;
unknown:
    ei_x_encode_atom(reply, "unknown_request");
}

/* {'$gen_cast', Operation} or {'$gen_call', {Pid, Tag}, Operation} to a registered name. */
static void message(struct peer *peer, const char *server, const char *in)
{
    char kind[MAXATOMLEN_UTF8];
    int at = 0, version, arity;
    ei_x_buff reply;
    if (ei_decode_version(in, &at, &version) || ei_decode_tuple_header(in, &at, &arity)
        || ei_decode_atom(in, &at, kind))
        return;
    ei_x_new(&reply);
    if (strcmp(kind, "$gen_cast") == 0) {
        operate(server, in, at, &reply);
    } else if (strcmp(kind, "$gen_call") == 0) {
        erlang_pid from;
        char head[400];
        int tag, head_bytes;
        if (ei_decode_tuple_header(in, &at, &arity) || ei_decode_pid(in, &at, &from))
            goto done;
        tag = at;
        if (ei_skip_term(in, &at))
            goto done;
        head_bytes = encode_send_head(head, &from);
        ei_x_append_buf(&reply, head, head_bytes);
        ei_x_encode_version(&reply);
        ei_x_encode_tuple_header(&reply, 2);
        ei_x_append_buf(&reply, in + tag, at - tag);
        operate(server, in, at, &reply);
        gather_frame(peer, reply.buff, reply.index);
    }
done:
    ei_x_free(&reply);
}

static void frame(struct peer *peer, const char *in, size_t bytes)
{
    int at = 1, version, arity;
    long operation;
    char name[MAXATOMLEN_UTF8];
    if (bytes == 0) {
        gather_frame(peer, "", 0); /* a tick for a tick */
        return;
    }
    if (in[0] != 112 || ei_decode_version(in, &at, &version)
        || ei_decode_tuple_header(in, &at, &arity) || ei_decode_long(in, &at, &operation))
        return;
    if (operation == 6) { /* {6, From, '', Name} */
        if (ei_skip_term(in, &at) || ei_skip_term(in, &at) || ei_decode_atom(in, &at, name))
            return;
        message(peer, name, in + at);
    } else if (operation == 3) { /* {3, Dead, OurPid, Reason} */
        erlang_pid dead;
        if (ei_decode_pid(in, &at, &dead) == 0)
            forget(&dead);
    }
}

static void receive(struct peer *peer)
{
    if (peer->room - peer->filled < READ_BYTES) {
        peer->room = peer->filled + 2 * READ_BYTES;
        peer->in = realloc(peer->in, peer->room);
    }
    ssize_t got = read(peer->fd, peer->in + peer->filled, READ_BYTES);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            drop(peer);
        return;
    }
    peer->filled += got;
    size_t at = 0;
    while (peer->filled - at >= 4) {
        uint32_t length;
        memcpy(&length, peer->in + at, 4);
        length = ntohl(length);
        if (peer->filled - at - 4 < length)
            break;
        frame(peer, peer->in + at + 4, length);
        at += 4 + length;
    }
    /* What was gathered points into the buffer. */
    flush_all();
    if (peer->fd < 0)
        return;
    memmove(peer->in, peer->in + at, peer->filled - at);
    peer->filled -= at;
}

static void accept_peer(int listener)
{
    ErlConnect connect;
    int fd = ei_accept_tmo(&self, listener, &connect, 5000), on = 1;
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (int p = 0; p < MAX_PEERS; p++)
        if (peers[p].fd < 0) {
            peers[p].fd = fd;
            peers[p].filled = 0;
            snprintf(peers[p].node, sizeof peers[p].node, "%s", connect.nodename);
            return;
        }
    close(fd);
}

int main(int argc, char **argv)
{
    char cookie[256] = "", alive[MAXNODELEN + 1];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_bytes = sizeof address;
    if (argc != 3)
        return 64;
    FILE *file = fopen(argv[2], "r");
    if (file == NULL || fgets(cookie, sizeof cookie, file) == NULL)
        die(argv[2]);
    snprintf(alive, sizeof alive, "%.*s", (int)strcspn(argv[1], "@"), argv[1]);

    ei_init();
    if (ei_connect_xinit(&self, "127.0.0.1", alive, argv[1], &address.sin_addr, cookie, getpid()))
        die("ei_connect_xinit");
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16)
        || getsockname(listener, (struct sockaddr *)&address, &address_bytes))
        die("listen");
    if (ei_publish(&self, ntohs(address.sin_port)) < 0)
        die("ei_publish");
    for (int p = 0; p < MAX_PEERS; p++)
        peers[p].fd = -1;
    printf("ready node=%s port=%d\n", argv[1], ntohs(address.sin_port));
    fflush(stdout);

    for (;;) {
        struct pollfd watched[MAX_PEERS + 2];
        struct peer *of[MAX_PEERS + 2];
        int count = 2;
        watched[0] = (struct pollfd){.fd = 0, .events = POLLIN};
        watched[1] = (struct pollfd){.fd = listener, .events = POLLIN};
        for (int p = 0; p < MAX_PEERS; p++)
            if (peers[p].fd >= 0) {
                of[count] = &peers[p];
                watched[count++] = (struct pollfd){.fd = peers[p].fd, .events = POLLIN};
            }
        if (poll(watched, count, -1) < 0)
            die("poll");
        char ignored[64];
        if (watched[0].revents && read(0, ignored, sizeof ignored) <= 0)
            return 0; /* the one that started us is gone */
        for (int n = 2; n < count; n++)
            if (watched[n].revents && of[n]->fd == watched[n].fd)
                receive(of[n]);
        if (watched[1].revents)
            accept_peer(listener);
    }
}
