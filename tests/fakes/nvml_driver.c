/* A stand-in for libnvidia-ml.so.1, loaded by the real nvidia-ml-py.

   Two GPUs; GPU i draws 100 (i + 1) W, has (i + 1) GiB in use and a UUID that ends in i. Time is what
   STUB_NOW says (seconds), so that energy is exact. STUB_FAIL="function=code" makes one function fail.
   OLD_DRIVER: as before 535, without the function that is called event reasons since. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int id; } Gpu;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned pid; unsigned long long at_us; unsigned sm, memory, encoder, decoder; } Use;

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
static Gpu gpus[2] = {{0}, {1}};
static int users;

static double number(const char *name, double otherwise) {
    const char *text = getenv(name);
    return text ? atof(text) : otherwise;
}

static int failure(const char *function) {
    const char *text = getenv("STUB_FAIL");
    size_t length = strlen(function);
    if (text && !strncmp(text, function, length) && text[length] == '=') return atoi(text + length + 1);
    return users || !strcmp(function, "nvmlInitWithFlags") ? SUCCESS : UNINITIALIZED;
}

#define ENTER int error = failure(__func__); if (error) return error

int nvmlInitWithFlags(unsigned flags) { ENTER; (void)flags; users++; return SUCCESS; }
int nvmlShutdown(void) { ENTER; users--; return SUCCESS; }
const char *nvmlErrorString(int code) {
    switch (code) {
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 6: return "Not Found";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    default: return "Unknown Error";
    }
}
int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    ENTER; snprintf(text, size, "580.00.stub"); return SUCCESS;
}
int nvmlDeviceGetCount_v2(unsigned *count) { ENTER; *count = 2; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
    ENTER; if (index > 1) return INVALID_ARGUMENT; *gpu = &gpus[index]; return SUCCESS;
}
int nvmlDeviceGetUUID(Gpu *gpu, char *text, unsigned size) {
    ENTER; snprintf(text, size, "GPU-00000000-0000-0000-0000-%012d", gpu->id); return SUCCESS;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Gpu **gpu) {
    ENTER;
    char own[80];
    for (int i = 0; i < 2; i++) {
        nvmlDeviceGetUUID(&gpus[i], own, sizeof own);
        if (!strcmp(own, uuid)) { *gpu = &gpus[i]; return SUCCESS; }
    }
    return NOT_FOUND;
}
int nvmlDeviceGetName(Gpu *gpu, char *text, unsigned size) {
    ENTER; snprintf(text, size, "Stub GPU %d", gpu->id); return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(Gpu *gpu, Memory *memory) {
    ENTER;
    memory->total = 80ull << 30;
    memory->used = (unsigned long long)(gpu->id + 1) << 30;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}
static double watts(const Gpu *gpu) { return 100.0 * (gpu->id + 1); }
int nvmlDeviceGetPowerUsage(Gpu *gpu, unsigned *mw) { ENTER; *mw = (unsigned)(watts(gpu) * 1000); return SUCCESS; }
int nvmlDeviceGetEnforcedPowerLimit(Gpu *gpu, unsigned *mw) { ENTER; (void)gpu; *mw = 700000; return SUCCESS; }
int nvmlDeviceGetTotalEnergyConsumption(Gpu *gpu, unsigned long long *mj) {
    ENTER; *mj = 5000000ull + (unsigned long long)(watts(gpu) * number("STUB_NOW", 0) * 1000); return SUCCESS;
}
int nvmlDeviceGetClockInfo(Gpu *gpu, unsigned kind, unsigned *mhz) {
    ENTER; (void)gpu;
    unsigned clocks[4] = {1980, 1755, 2619, 1545};
    if (kind > 3) return INVALID_ARGUMENT;
    *mhz = clocks[kind];
    return SUCCESS;
}
int nvmlDeviceGetMaxClockInfo(Gpu *gpu, unsigned kind, unsigned *mhz) {
    ENTER; (void)gpu; (void)kind; *mhz = 1980; return SUCCESS;
}
int nvmlDeviceGetTemperature(Gpu *gpu, unsigned sensor, unsigned *celsius) {
    ENTER; (void)sensor; *celsius = 60 + gpu->id; return SUCCESS;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Gpu *gpu, unsigned long long *bits) {
    ENTER; (void)gpu; *bits = (unsigned long long)number("STUB_THROTTLE", 4); return SUCCESS;
}
#ifndef OLD_DRIVER
int nvmlDeviceGetCurrentClocksEventReasons(Gpu *gpu, unsigned long long *bits) {
    ENTER; (void)gpu; *bits = (unsigned long long)number("STUB_THROTTLE", 4); return SUCCESS;
}
#endif
/* Process 100 is ours; process 200, of STUB_OTHERS_GIB, is not. */
int nvmlDeviceGetComputeRunningProcesses_v3(Gpu *gpu, unsigned *count, Process *found) {
    ENTER; (void)gpu;
    unsigned room = *count;
    double others = number("STUB_OTHERS_GIB", 0);
    *count = others > 0 ? 2 : 1;
    if (room < *count) return INSUFFICIENT_SIZE;
    found[0] = (Process){100, 3ull << 30, 0, 0};
    if (others > 0) found[1] = (Process){200, (unsigned long long)(others * (1 << 30)), 0, 0};
    return SUCCESS;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(Gpu *gpu, unsigned *count, Process *found) {
    ENTER; (void)gpu; (void)found; *count = 0; return SUCCESS;
}
int nvmlDeviceGetProcessUtilization(Gpu *gpu, Use *found, unsigned *count, unsigned long long since_us) {
    ENTER; (void)gpu;
    unsigned room = *count, percent = (unsigned)number("STUB_OTHERS_PERCENT", 0);
    if (!percent) return NOT_FOUND;
    *count = 2;
    if (!found || room < 2) return INSUFFICIENT_SIZE;
    found[0] = (Use){100, since_us + 1, 90, 40, 0, 0};
    found[1] = (Use){200, since_us + 1, percent, 1, 0, 0};
    return SUCCESS;
}
