/* Preloaded into senders: each says that it is about to call, and waits until all may.
 *
 * A sender takes longer to start than to send a few stills; where one is compared with sixteen, that is no
 * business of whom they call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

typedef int (*connect_function)(int, const struct sockaddr *, socklen_t);

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    connect_function next = (connect_function)dlsym(RTLD_NEXT, "connect");
    const char *ready = getenv("BENCH_READY"), *start = getenv("BENCH_START");
    char nothing;

    if (ready != NULL && start != NULL && write(atoi(ready), "!", 1) == 1)
        while (read(atoi(start), &nothing, 1) > 0) /* until the other end is closed */
            ;
    return next(fd, address, length);
}
