/*
 * Preloaded into an agent: what stands between it and the kernel goes wrong on demand.
 *
 * The file that NETT_FAULTS names holds words, looked at with every message to the kernel:
 *
 *   powerless     the sending thread has no CAP_NET_ADMIN for the length of the call, so that the
 *                 kernel itself refuses what needs it
 *   refuse=TYPE   a dump request of this type gets a header that the kernel, which checks
 *                 strictly, refuses in its own words
 *   torn=TYPE     of each datagram with objects of this type (RTM_NEWROUTE, RTM_NEWRULE or
 *                 RTM_NEWNEXTHOP) from a dump, one is garbled
 *   cut=TYPE      each of them says that the dump was interrupted (NLM_F_DUMP_INTR)
 *
 * TYPE is a number of linux/rtnetlink.h. Notifications, which come without being asked for, and
 * all other sockets are left as they are.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct faults {
    int powerless;
    int refuse, torn, cut;
};

static struct faults faults(void)
{
    struct faults now = { 0, 0, 0, 0 };
    const char *path = getenv("NETT_FAULTS");
    char text[256];
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return now;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length > 0 ? length : 0] = 0;
    const char *at;
    now.powerless = strstr(text, "powerless") != NULL;
    if ((at = strstr(text, "refuse=")))
        now.refuse = atoi(at + 7);
    if ((at = strstr(text, "torn=")))
        now.torn = atoi(at + 5);
    if ((at = strstr(text, "cut=")))
        now.cut = atoi(at + 4);
    return now;
}

static int is_netlink(int fd)
{
    int domain = 0;
    socklen_t size = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_NETLINK;
}

/* Of the calling thread alone: the system call knows no process. A fault that cannot be made ends
 * the agent, since it must not look like one that copes with it. */
static void net_admin(int has)
{
    struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &head, data))
        abort();
    if (has)
        data[0].effective |= 1u << CAP_NET_ADMIN;
    else
        data[0].effective &= ~(1u << CAP_NET_ADMIN);
    if (syscall(SYS_capset, &head, data))
        abort();
}

/* send and recvfrom are all that the agent's netlink sockets call; with others the faults would do
 * nothing, and the stories would wait in vain for their alarms. */
ssize_t send(int fd, const void *bytes, size_t length, int flags)
{
    static ssize_t (*next)(int, const void *, size_t, int);
    if (!next)
        next = (ssize_t (*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send");
    if (!is_netlink(fd))
        return next(fd, bytes, length, flags);
    struct faults now = faults();
    const struct nlmsghdr *head = bytes;
    char changed[512];
    int dumps = length >= NLMSG_HDRLEN + 4 && (head->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
    if (dumps && now.refuse && head->nlmsg_type == now.refuse && length <= sizeof changed) {
        memcpy(changed, bytes, length);
        /* A field that has to be 0 in rtmsg, nhmsg, fib_rule_hdr, ifinfomsg and ifaddrmsg. */
        changed[NLMSG_HDRLEN + 2] = 1;
        bytes = changed;
    }
    if (now.powerless)
        net_admin(0);
    ssize_t sent = next(fd, bytes, length, flags);
    if (now.powerless)
        net_admin(1);
    return sent;
}

ssize_t recvfrom(int fd, void *bytes, size_t size, int flags, struct sockaddr *from,
                 socklen_t *from_size)
{
    static ssize_t (*next)(int, void *, size_t, int, struct sockaddr *, socklen_t *);
    if (!next)
        next = (ssize_t (*)(int, void *, size_t, int, struct sockaddr *, socklen_t *))dlsym(
            RTLD_NEXT, "recvfrom");
    ssize_t length = next(fd, bytes, size, flags, from, from_size);
    if (length <= 0 || !is_netlink(fd))
        return length;
    struct faults now = faults();
    if (!now.torn && !now.cut)
        return length;
    int left = (int)(length < (ssize_t)size ? length : (ssize_t)size), torn = 0;
    struct nlmsghdr *head = bytes;
    for (; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
        if (!(head->nlmsg_flags & NLM_F_MULTI))
            continue;
        if (head->nlmsg_type == now.cut)
            head->nlmsg_flags |= NLM_F_DUMP_INTR;
        if (head->nlmsg_type == now.torn && !torn) {
            /* The first attribute is longer than its message. */
            int fixed = head->nlmsg_type == RTM_NEWNEXTHOP ? (int)sizeof(struct nhmsg)
                                                           : (int)sizeof(struct rtmsg);
            struct rtattr *first = (struct rtattr *)((char *)NLMSG_DATA(head) + fixed);
            if (head->nlmsg_len >= NLMSG_HDRLEN + fixed + sizeof *first) {
                first->rta_len = 0xffff;
                torn = 1;
            }
        }
    }
    return length;
}
