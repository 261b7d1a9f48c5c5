// bpf_ids: prints every BPF program, map and link that the kernel holds, one a line: `prog 12 NAME MAP MAP…` with the ids
// of the maps that it uses, `map 3 NAME`, `link 4 -`. Walks the ids through bpf(2), so that it needs no other tool. Exits with 1 if it may not.
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <errno.h>

#define MAPS_MAX 64

static long bpf(int command, union bpf_attr *attr) {
    return syscall(SYS_bpf, command, attr, sizeof *attr);
}

static int walk(const char *kind, int next_command, int open_command) {
    uint32_t id = 0;
    for (;;) {
        union bpf_attr attr;
        memset(&attr, 0, sizeof attr);
        attr.start_id = id;
        if (bpf(next_command, &attr) != 0) {
            if (errno == ENOENT) {
                return 0;
            }
            fprintf(stderr, "bpf_ids: walking the %s ids: %s\n", kind, strerror(errno));
            return 1;
        }
        id = attr.next_id;
        char name[BPF_OBJ_NAME_LEN + 1] = "-";
        memset(&attr, 0, sizeof attr);
        attr.prog_id = id;
        int fd = (int)bpf(open_command, &attr);
        if (fd < 0) {
            continue;  // It went away meanwhile.
        }
        uint32_t maps[MAPS_MAX];
        struct bpf_prog_info prog = {.nr_map_ids = MAPS_MAX, .map_ids = (uintptr_t)maps};
        struct bpf_map_info map = {0};
        memset(&attr, 0, sizeof attr);
        attr.info.bpf_fd = (uint32_t)fd;
        if (next_command == BPF_PROG_GET_NEXT_ID) {
            attr.info.info_len = sizeof prog;
            attr.info.info = (uintptr_t)&prog;
            if (bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) != 0) {
                prog.nr_map_ids = 0;
            } else if (prog.name[0] != 0) {
                memcpy(name, prog.name, BPF_OBJ_NAME_LEN);
            }
        } else if (next_command == BPF_MAP_GET_NEXT_ID) {
            attr.info.info_len = sizeof map;
            attr.info.info = (uintptr_t)&map;
            if (bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) == 0 && map.name[0] != 0) {
                memcpy(name, map.name, BPF_OBJ_NAME_LEN);
            }
        }
        close(fd);
        printf("%s %u %s", kind, id, name);
        if (next_command == BPF_PROG_GET_NEXT_ID) {
            for (uint32_t i = 0; i < prog.nr_map_ids && i < MAPS_MAX; i++) {
                printf(" %u", maps[i]);
            }
        }
        printf("\n");
    }
}

int main(void) {
    return walk("prog", BPF_PROG_GET_NEXT_ID, BPF_PROG_GET_FD_BY_ID) |
           walk("map", BPF_MAP_GET_NEXT_ID, BPF_MAP_GET_FD_BY_ID) |
           walk("link", BPF_LINK_GET_NEXT_ID, BPF_LINK_GET_FD_BY_ID);
}
