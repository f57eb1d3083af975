/* The measure for `udpong ping -i 1ms`: a minimal loop that sends a probe every millisecond and waits for its answer.
 *
 * Usage: ping PORT COUNT. Prints the median round trip to 127.0.0.1 in microseconds, by the kernel's receive clock. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static long long nanoseconds(struct timespec time)
{
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    int count = atoi(argv[2]), on = 1;
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(udp, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    setsockopt(udp, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 1}, sizeof(struct timeval));
    connect(udp, (struct sockaddr *)&target, sizeof target);

    char probe[56] = {0}, answer[2048], control[256];
    long long *round_trips = calloc(count, sizeof *round_trips);
    struct timespec due, sent, arrived;
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (int i = 0; i < count; i++) {
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        due.tv_nsec += 1000000;
        if (due.tv_nsec >= 1000000000) {
            due.tv_nsec -= 1000000000;
            due.tv_sec++;
        }
        memcpy(probe, &i, sizeof i); /* A server may refuse to answer the same payload endlessly. */
        clock_gettime(CLOCK_REALTIME, &sent);
        send(udp, probe, sizeof probe, 0);
        struct iovec payload = {answer, sizeof answer};
        struct msghdr message = {
            .msg_iov = &payload, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        if (recvmsg(udp, &message, 0) < 0)
            return 1;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
            if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS) {
                memcpy(&arrived, CMSG_DATA(c), sizeof arrived);
                round_trips[i] = nanoseconds(arrived) - nanoseconds(sent);
            }
    }
    qsort(round_trips, count, sizeof *round_trips, compare);
    printf("%.3f\n", round_trips[count / 2] / 1e3);
    return 0;
}
