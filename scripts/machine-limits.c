// What this machine can do: arithmetic a second by instruction, and bytes read a second by number of streams.
//
// usage: cc -O3 -march=native -pthread scripts/machine-limits.c -o limits -lm && ./limits
//
// Independent accumulators in registers give the arithmetic peaks (no memory is touched); more of them
// than latency times issue width (4 x 2) keep both units busy. Reading walks 1 GiB in huge pages, each
// thread its own part, split in 1 to 16 streams that are read side by side, as a product walks weight
// rows. Prints the best of several tries on one thread and on two.
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { ACCUMULATORS = 14, ROUNDS = 20000000, BYTES = 1 << 30, TRIES = 5 };

typedef struct {
    int kind, streams, thread, threads;
    double seconds;
} Job;

static char *memory;
static pthread_barrier_t start;
static volatile float float_sink;
static volatile long long int_sink;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// One loop that does STEP on every accumulator; the empty asm keeps them in registers and the loop unfolded.
#define PEAK(NAME, TYPE, ZERO, STEP, KEEP)                                   \
    static void NAME(void) {                                                 \
        TYPE a[ACCUMULATORS];                                                \
        for (int i = 0; i < ACCUMULATORS; i++) a[i] = ZERO;                  \
        for (long r = 0; r < ROUNDS; r++) {                                  \
            _Pragma("GCC unroll 14") for (int i = 0; i < ACCUMULATORS; i++) { \
                a[i] = STEP;                                                 \
                __asm__ volatile("" : "+v"(a[i]));                           \
            }                                                                \
        }                                                                    \
        for (int i = 1; i < ACCUMULATORS; i++) a[0] = KEEP(a[0], a[i]);      \
        int_sink += *(int *)&a[0];                                           \
    }

#ifdef __AVX512F__
#define X512 _mm512_set1_ps(0.5f)
PEAK(f32_fma, __m512, _mm512_setzero_ps(), _mm512_fmadd_ps(X512, X512, a[i]), _mm512_add_ps)
enum { F32_OPS = 32 };
#else
#define X256 _mm256_set1_ps(0.5f)
PEAK(f32_fma, __m256, _mm256_setzero_ps(), _mm256_fmadd_ps(X256, X256, a[i]), _mm256_add_ps)
enum { F32_OPS = 16 };
#endif
#ifdef __AVX512BF16__
#define XBF ((__m512bh)_mm512_set1_epi16(0x3f00))
PEAK(bf16_dot, __m512, _mm512_setzero_ps(), _mm512_dpbf16_ps(a[i], XBF, XBF), _mm512_add_ps)
#endif
#ifdef __AVX512VNNI__
#define X8 _mm512_set1_epi8(1)
PEAK(int8_dot, __m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(a[i], X8, X8), _mm512_add_epi32)
#endif

static void read_streams(const Job *job) {
    size_t share = BYTES / job->threads / job->streams;
    const char *base = memory + (size_t)job->thread * (BYTES / job->threads);
#ifdef __AVX512F__
    __m512i sum = _mm512_setzero_si512();
#define TAKE(p) sum = _mm512_xor_si512(sum, _mm512_load_si512(p))
#else
    __m256i sum = _mm256_setzero_si256();
#define TAKE(p) sum = _mm256_xor_si256(sum, _mm256_xor_si256( \
    _mm256_load_si256((const void *)(p)), _mm256_load_si256((const void *)((p) + 32))))
#endif
    for (size_t at = 0; at < share; at += 256)
        for (int s = 0; s < job->streams; s++) {
            const char *p = base + s * share + at;
            TAKE(p); TAKE(p + 64); TAKE(p + 128); TAKE(p + 192);
        }
    int_sink += *(int *)&sum;
}

static void *work(void *argument) {
    Job *job = argument;
    pthread_barrier_wait(&start);
    double began = now();
    switch (job->kind) {
        case 0: f32_fma(); break;
#ifdef __AVX512BF16__
        case 1: bf16_dot(); break;
#endif
#ifdef __AVX512VNNI__
        case 2: int8_dot(); break;
#endif
        case 3: read_streams(job); break;
    }
    job->seconds = now() - began;
    return NULL;
}

// The time of the slowest thread, best of several tries.
static double run(int kind, int streams, int threads) {
    double best = 1e9;
    for (int try = 0; try < TRIES; try++) {
        Job jobs[2];
        pthread_t ids[2];
        double slowest = 0;
        pthread_barrier_init(&start, NULL, threads);
        for (int t = 0; t < threads; t++) {
            jobs[t] = (Job){kind, streams, t, threads, 0};
            pthread_create(&ids[t], NULL, work, &jobs[t]);
        }
        for (int t = 0; t < threads; t++) {
            pthread_join(ids[t], NULL);
            if (jobs[t].seconds > slowest) slowest = jobs[t].seconds;
        }
        pthread_barrier_destroy(&start);
        if (slowest < best) best = slowest;
    }
    return best;
}

static void print_peak(const char *name, int kind, int ops) {
    double steps = (double)ACCUMULATORS * ROUNDS * ops * 1e-9;
    printf("%-28s %8.0f %8.0f  G/s\n", name, steps / run(kind, 0, 1), 2 * steps / run(kind, 0, 2));
}

int main(void) {
    printf("%-28s %8s %8s\n", "", "1 thread", "2 threads");
    print_peak("f32 FMA", 0, F32_OPS);
#ifdef __AVX512BF16__
    print_peak("bf16 vdpbf16ps", 1, 64);
#endif
#ifdef __AVX512VNNI__
    print_peak("int8 vpdpbusd", 2, 128);
#endif
    memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return perror("mmap"), 2;
    madvise(memory, BYTES, MADV_HUGEPAGE);
    memset(memory, 1, BYTES);
    for (int streams = 1; streams <= 16; streams *= 2) {
        char name[32];
        snprintf(name, sizeof name, "read, %d stream%s a thread", streams, streams > 1 ? "s" : "");
        printf("%-28s %8.1f %8.1f  GB/s\n", name, BYTES * 1e-9 / run(3, streams, 1), BYTES * 1e-9 / run(3, streams, 2));
    }
    return 0;
}
