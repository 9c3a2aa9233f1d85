/* Preloaded into peers under test: a listener on every address becomes one on loopback.
 *
 * Orthanc and DCMTK have no option for the address their DICOM port binds to, and a test must not
 * open a port to the network. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

typedef int (*bind_function)(int, const struct sockaddr *, socklen_t);

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    bind_function next = (bind_function)dlsym(RTLD_NEXT, "bind");
    struct sockaddr_storage own;

    if (address == NULL || length > sizeof own)
        return next(fd, address, length);
    memcpy(&own, address, length);
    if (own.ss_family == AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&own;
        if (v4->sin_addr.s_addr == htonl(INADDR_ANY))
            v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else if (own.ss_family == AF_INET6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&own;
        if (IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr)) {
            int only_v6 = 0;
            socklen_t size = sizeof only_v6;
            getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, &size);
            if (only_v6) {
                v6->sin6_addr = in6addr_loopback;
            } else { /* a socket for both families: the IPv4 loopback address in IPv6 form */
                memset(&v6->sin6_addr, 0, sizeof v6->sin6_addr);
                v6->sin6_addr.s6_addr[10] = v6->sin6_addr.s6_addr[11] = 0xff;
                v6->sin6_addr.s6_addr[12] = 127;
                v6->sin6_addr.s6_addr[15] = 1;
            }
        }
    }
    return next(fd, (struct sockaddr *)&own, length);
}
