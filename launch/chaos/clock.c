// Adds the seconds that a file holds to the time of day. See clock.py.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset;
static int (*true_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void open_clock(void) {
    const char *path = getenv("CAIT_CHAOS_CLOCK");
    true_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
    if (file < 0) return;
    if (ftruncate(file, sizeof *offset) == 0) {
        void *place = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
        if (place != MAP_FAILED) offset = place;
    }
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    // Others' constructors may ask before ours has run.
    if (true_clock == NULL) open_clock();
    int status = true_clock(clock, now);
    if (status == 0 && clock == CLOCK_REALTIME && offset != NULL) now->tv_sec += *offset;
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    int status = clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return status;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place != NULL) *place = now.tv_sec;
    return now.tv_sec;
}
