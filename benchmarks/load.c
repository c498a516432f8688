/* What the benchmarks put at both ends where Python would be the bottleneck: an echo server and load generators.
 *
 *   load serve PORT [LETTER]                           echoes streams and datagrams until killed, or so many LETTERs
 *   load ping-pong   HOST PORT SECONDS                 one connection, one message at a time
 *   load connections HOST PORT SECONDS CLIENTS SOURCES one message a connection; the client closes first
 *   load udp-flows   HOST PORT SECONDS CLIENTS SOURCES each client asks again when it is answered
 *   load udp-fresh   HOST PORT SECONDS CLIENTS SOURCES the same, from a new source port for each query
 *   load idle        HOST PORT COUNT SOURCES           says "ready" once all are open; closes them at end of input
 *
 * HOST may be several addresses separated by commas, used in turn (not by ping-pong). So are SOURCES, which are
 * local addresses; "-" leaves the choice to the kernel. Generators
 * print one line of JSON; latencies are in microseconds. A query that is not answered within two seconds is lost.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 64, BATCH = 64, EVENTS = 256, MAX_CLIENTS = 16384, BUCKETS = 20000000 };
static const uint64_t SECOND = 1000000000, PATIENCE = 2000000000, BUCKET = 100; /* nanoseconds */

static struct sockaddr_in targets[256], sources[256];
static unsigned target_count, source_count, next_target, next_source;
static int letter; /* what the server answers with; 0: with what it was sent */
static uint64_t done, failed, lost, longest;
static uint32_t histogram[BUCKETS]; /* of latencies up to two seconds, 0.1 us each */
static char message[MESSAGE], scratch[1 << 16];
static struct client { int fd; unsigned received; uint64_t began; } clients[MAX_CLIENTS];
static int poller;

static void die(const char *what) { perror(what); exit(1); }

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void answered(uint64_t began) {
    uint64_t took = now() - began, bucket = took / BUCKET;
    histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    if (took > longest) longest = took;
    done++;
}

static double percentile(double share) {
    uint64_t below = 0, wanted = done * share;
    for (unsigned i = 0; i < BUCKETS; i++)
        if ((below += histogram[i]) > wanted) return i * BUCKET / 1000.0;
    return 0;
}

static void report(uint64_t began) {
    printf("{\"done\":%lu,\"failed\":%lu,\"lost\":%lu,\"seconds\":%.6f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
           "\"max_us\":%.1f}\n", done, failed, lost, (double)(now() - began) / SECOND, percentile(0.5),
           percentile(0.99), longest / 1000.0);
}

/* A socket that is registered once, edge-triggered, for its whole life; -1 if it cannot connect. */
static int open_client(unsigned index, int type) {
    int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0) die("socket");
    if (type == SOCK_STREAM) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    }
    if (source_count) {
        struct sockaddr_in *source = &sources[next_source++ % source_count];
        if (bind(fd, (struct sockaddr *)source, sizeof *source)) die("bind");
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u32 = index};
    if (type == SOCK_DGRAM) event.events = EPOLLIN;
    clients[index] = (struct client){.fd = fd, .began = now()};
    struct sockaddr_in *target = &targets[next_target++ % target_count];
    if (connect(fd, (struct sockaddr *)target, sizeof *target) && errno != EINPROGRESS) {
        close(fd);
        return clients[index].fd = -1;
    }
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    return fd;
}

static void close_client(unsigned index) {
    close(clients[index].fd);
    clients[index].fd = -1;
}

/* -- generators ---------------------------------------------------------------------------------------------- */

static void ping_pong(uint64_t until) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)targets, sizeof *targets)) die("connect");
    for (uint64_t began; (began = now()) < until; answered(began)) {
        if (send(fd, message, MESSAGE, 0) != MESSAGE) die("send");
        if (recv(fd, scratch, MESSAGE, MSG_WAITALL) != MESSAGE) die("recv");
    }
}

/* What an edge on a connection means: 1 if it is over, well or not. */
static int advance(struct client *client, uint32_t events) {
    if (events & EPOLLERR) return failed++, 1;
    if (!client->received && (events & EPOLLOUT) && !(events & EPOLLIN)) {
        if (send(client->fd, message, MESSAGE, MSG_NOSIGNAL) != MESSAGE) return failed++, 1;
        return 0;
    }
    ssize_t size = recv(client->fd, scratch, sizeof scratch, 0);
    if (size < 0 && errno == EAGAIN) return 0;
    if (size <= 0) return failed++, 1;
    if ((client->received += size) < MESSAGE) return 0;
    return answered(client->began), 1;
}

/* Keep opening in a place until it holds a connection under way, but not longer than the run lasts. */
static void reopen(unsigned index, uint64_t until) {
    while (now() < until && open_client(index, SOCK_STREAM) < 0) failed++;
}

static void connections(unsigned count, uint64_t until) {
    struct epoll_event events[EVENTS];
    for (unsigned i = 0; i < count; i++) clients[i].fd = -1, reopen(i, until);
    while (now() < until) {
        int ready = epoll_wait(poller, events, EVENTS, 10);
        for (int i = 0; i < ready; i++) {
            unsigned index = events[i].data.u32;
            if (!advance(&clients[index], events[i].events)) continue;
            close_client(index);
            reopen(index, until);
        }
        for (unsigned i = 0; !ready && i < count; i++)
            if (clients[i].fd >= 0 && now() - clients[i].began > PATIENCE) lost++, close_client(i), reopen(i, until);
    }
}

static void ask(unsigned index, int is_fresh) {
    if (is_fresh && open_client(index, SOCK_DGRAM) < 0) { failed++; return; }
    clients[index].began = now();
    if (send(clients[index].fd, message, MESSAGE, 0) != MESSAGE) failed++;
}

/* Queries from `count` sockets at a time; nobody is asked after `until`, and answers are awaited after it. */
static void udp(unsigned count, uint64_t until, int is_fresh) {
    struct epoll_event events[EVENTS];
    unsigned waiting = count;
    uint64_t swept = now();
    for (unsigned i = 0; i < count; i++) {
        if (!is_fresh && open_client(i, SOCK_DGRAM) < 0) die("connect");
        ask(i, is_fresh);
    }
    while (waiting && now() < until + PATIENCE) {
        int ready = epoll_wait(poller, events, EVENTS, 10);
        for (int i = 0; i < ready; i++) {
            unsigned index = events[i].data.u32;
            if (recv(clients[index].fd, scratch, sizeof scratch, 0) < 0) {
                if (errno == EAGAIN) continue;
                failed++; /* refused: an ICMP error came back */
            } else answered(clients[index].began);
            if (is_fresh) close_client(index);
            if (now() < until) ask(index, is_fresh);
            else waiting--;
        }
        if (now() - swept < SECOND / 20 || now() >= until) continue;
        swept = now();
        for (unsigned i = 0; i < count; i++) {
            if (clients[i].fd >= 0 && swept - clients[i].began < PATIENCE) continue;
            if (clients[i].fd >= 0) {
                lost++;
                if (is_fresh) close_client(i);
            }
            ask(i, is_fresh);
        }
    }
    lost += waiting;
}

static void idle(unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
        if (fd < 0) die("socket");
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (source_count && bind(fd, (struct sockaddr *)&sources[i % source_count], sizeof *sources)) die("bind");
        if (connect(fd, (struct sockaddr *)&targets[i % target_count], sizeof *targets)) die("connect");
        /* One exchange, so that the connection reaches all the way to the endpoint before it rests. */
        if (send(fd, message, MESSAGE, 0) != MESSAGE) die("send");
        if (recv(fd, scratch, MESSAGE, MSG_WAITALL) != MESSAGE) die("recv");
    }
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF) continue;
}

/* -- the echo server ----------------------------------------------------------------------------------------- */

static int listen_at(int type, unsigned port) {
    int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address)) die("bind");
    if (type == SOCK_STREAM && listen(fd, 4096)) die("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    return fd;
}

static void accept_all(int listener) {
    int one = 1;
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
}

static void echo_stream(int fd) {
    ssize_t size = recv(fd, scratch, sizeof scratch, 0);
    if (letter && size > 0) memset(scratch, letter, size);
    if (size > 0 && send(fd, scratch, size, MSG_NOSIGNAL) == size) return;
    if (size < 0 && errno == EAGAIN) return;
    close(fd);
}

static void echo_datagrams(int fd) {
    static struct mmsghdr headers[BATCH];
    static struct iovec parts[BATCH];
    static struct sockaddr_in addresses[BATCH];
    static char buffers[BATCH][2048];
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){buffers[i], sizeof buffers[i]};
        headers[i].msg_hdr = (struct msghdr){.msg_name = &addresses[i], .msg_namelen = sizeof addresses[i],
                                             .msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int count = recvmmsg(fd, headers, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++) parts[i].iov_len = headers[i].msg_len;
    if (count > 0) sendmmsg(fd, headers, count, 0);
}

static void serve(unsigned port) {
    struct epoll_event events[EVENTS];
    int streams = listen_at(SOCK_STREAM, port), datagrams = listen_at(SOCK_DGRAM, port);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == streams) accept_all(fd);
            else if (fd == datagrams) echo_datagrams(fd);
            else echo_stream(fd);
        }
    }
}

static unsigned read_addresses(char *text, struct sockaddr_in *addresses, unsigned port) {
    unsigned count = 0;
    for (char *part = strtok(text, ","); part && *part != '-' && count < 256; part = strtok(NULL, ","), count++) {
        addresses[count] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
        if (inet_pton(AF_INET, part, &addresses[count].sin_addr) != 1) die(part);
    }
    return count;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if ((poller = epoll_create1(0)) < 0) die("epoll_create1");
    if (argc >= 3 && !strcmp(mode, "serve")) letter = argc > 3 ? *argv[3] : 0, serve(atoi(argv[2]));
    if (argc < 5) return fputs("see load.c for how it is called\n", stderr), 2;
    target_count = read_addresses(argv[2], targets, atoi(argv[3]));
    memset(message, 'x', MESSAGE);
    if (argc == 6 && !strcmp(mode, "idle")) {
        source_count = read_addresses(argv[5], sources, 0);
        return idle(atoi(argv[4])), 0;
    }
    uint64_t began = now(), until = began + (uint64_t)(atof(argv[4]) * SECOND);
    unsigned count = argc > 5 ? atoi(argv[5]) : 1;
    if (count > MAX_CLIENTS) return fputs("too many clients\n", stderr), 2;
    if (argc > 6) source_count = read_addresses(argv[6], sources, 0);
    if (!strcmp(mode, "ping-pong")) ping_pong(until);
    else if (!strcmp(mode, "connections")) connections(count, until);
    else if (!strcmp(mode, "udp-flows")) udp(count, until, 0);
    else if (!strcmp(mode, "udp-fresh")) udp(count, until, 1);
    else return fputs("see load.c for how it is called\n", stderr), 2;
    return report(began), 0;
}
