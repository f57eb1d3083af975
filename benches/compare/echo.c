/* The bare server that udpong is measured against: recvmmsg, UDP_GRO, UDP_SEGMENT and sendmmsg, and nothing else. It
 * has no event loop, log, guard, statistics or queue; an error ends it. Each reply is the text given as an argument, if
 * any, and the request. Prints its address. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define MESSAGES 32
#define SEGMENTS 128 /* The most datagrams that the kernel coalesces. */
#define BUFFER 65600 /* The longest message; not a power of two, which would strain few cache sets. */

static char buffers[MESSAGES][BUFFER];
static struct sockaddr_in peers[MESSAGES];
static union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
} controls[MESSAGES];
static struct iovec iovecs[MESSAGES][2 * SEGMENTS];
static struct mmsghdr messages[MESSAGES];
static struct iovec text;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Returns the length of the datagrams that the kernel has coalesced, or 0 for a single one. */
static int segment_length(struct msghdr *message) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int length;
            memcpy(&length, CMSG_DATA(c), sizeof length);
            return length;
        }
    }
    return 0;
}

static void prepare_receive(int i) {
    iovecs[i][0] = (struct iovec){buffers[i], 65535};
    messages[i].msg_hdr = (struct msghdr){.msg_name = &peers[i],
                                          .msg_namelen = sizeof peers[i],
                                          .msg_iov = iovecs[i],
                                          .msg_iovlen = 1,
                                          .msg_control = &controls[i],
                                          .msg_controllen = sizeof controls[i]};
}

/* Puts the text before each datagram of a message. */
static void insert_text(int i, unsigned segment) {
    struct iovec *next = iovecs[i];
    unsigned length = messages[i].msg_len, start = 0;
    do {
        unsigned end = segment > 0 && length - start > segment ? start + segment : length;
        *next++ = text;
        *next++ = (struct iovec){buffers[i] + start, end - start};
        start = end;
    } while (start < length);
    messages[i].msg_hdr.msg_iovlen = next - iovecs[i];
}

/* Turns a received message into its reply. */
static void prepare_send(int i) {
    struct msghdr *message = &messages[i].msg_hdr;
    int length = segment_length(message);
    iovecs[i][0].iov_len = messages[i].msg_len;
    if (text.iov_len > 0)
        insert_text(i, length);
    message->msg_control = NULL;
    message->msg_controllen = 0;
    if (length > 0 && (unsigned)length < messages[i].msg_len) {
        unsigned short segment = (unsigned short)(length + text.iov_len);
        message->msg_control = &controls[i];
        message->msg_controllen = CMSG_SPACE(sizeof segment);
        struct cmsghdr *c = CMSG_FIRSTHDR(message);
        c->cmsg_level = SOL_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof segment);
        memcpy(CMSG_DATA(c), &segment, sizeof segment);
    }
}

int main(int argc, char **argv) {
    int on = 1, size = 4 << 20;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) < 0)
        fail("buffers");
    if (setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on) < 0)
        fail("UDP_GRO");
    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
        fail("getsockname");
    if (argc > 1)
        text = (struct iovec){argv[1], strlen(argv[1])};
    printf("127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (int i = 0; i < MESSAGES; i++)
        prepare_receive(i);
    for (;;) {
        int count = recvmmsg(fd, messages, MESSAGES, MSG_WAITFORONE, NULL);
        if (count < 0)
            fail("recvmmsg");
        for (int i = 0; i < count; i++)
            prepare_send(i);
        for (int sent = 0; sent < count;) {
            int now = sendmmsg(fd, messages + sent, count - sent, 0);
            if (now < 0)
                fail("sendmmsg");
            sent += now;
        }
        for (int i = 0; i < count; i++)
            prepare_receive(i);
    }
}
