/* What NVIDIA's library says of one GPU, for a machine without: the functions of NVML that downbeat
 * calls, with the layouts of nvml.h (API version 12). The figures are fixed; the process on the GPU,
 * and whether the GPU answers, are in the file that DRIVER_STATE names: "PID", or "lost". */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} memory_v2;

typedef struct {
    unsigned int gpu, memory;
} utilization;

typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
} process_info;

typedef struct {
    unsigned int pid;
    unsigned long long time;
    unsigned int sm, memory, encoder, decoder;
} process_sample;

static int device;

/* The process on the GPU; 0 for none, -1 where the GPU is lost. */
static int state(void) {
    char text[32] = "";
    FILE *file = fopen(getenv("DRIVER_STATE"), "r");
    if (file == NULL)
        return 0;
    if (fgets(text, sizeof text, file) == NULL)
        text[0] = 0;
    fclose(file);
    return strncmp(text, "lost", 4) == 0 ? -1 : atoi(text);
}

int nvmlInit_v2(void) { return SUCCESS; }

int nvmlShutdown(void) { return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = 1;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    if (index != 0)
        return NOT_FOUND;
    *handle = &device;
    return state() < 0 ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned int length) {
    snprintf(uuid, length, "GPU-00000000-1111-2222-3333-444444444444");
    return SUCCESS;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned int length) {
    snprintf(name, length, "NVIDIA Stand-in");
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *handle, utilization *rates) {
    rates->gpu = 37;
    rates->memory = 12;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_v2 *memory) {
    memory->total = 24ULL << 30;
    memory->reserved = 1ULL << 30;
    memory->used = 5ULL << 30;
    memory->free = 18ULL << 30;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned int *celsius) {
    *celsius = 61;
    return sensor == 0 ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned int *milliwatts) {
    *milliwatts = 71500;
    return SUCCESS;
}

/* As a GPU without a limit of its own: the limit that was set is asked for instead. */
int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned int *milliwatts) { return NOT_SUPPORTED; }

int nvmlDeviceGetPowerManagementLimit(void *handle, unsigned int *milliwatts) {
    *milliwatts = 200000;
    return SUCCESS;
}

/* nvmlClocksEventReasonSwPowerCap, and GpuIdle, which is no reason. */
int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *reasons) {
    *reasons = 0x4 | 0x1;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_info *list) {
    int pid = state();
    unsigned int room = *count;
    *count = pid > 0;
    if (*count > room)
        return INSUFFICIENT_SIZE;
    if (*count == 1)
        list[0] = (process_info){pid, 3ULL << 30, ~0U, ~0U};
    return SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned int *count, process_info *list) {
    *count = 0;
    return SUCCESS;
}

int nvmlDeviceGetProcessUtilization(void *handle, process_sample *list, unsigned int *count,
                                    unsigned long long since) {
    int pid = state();
    unsigned int room = *count;
    *count = pid > 0;
    if (pid <= 0)
        return NOT_FOUND;
    if (room < 1)
        return INSUFFICIENT_SIZE;
    list[0] = (process_sample){pid, since + 1000000, 20, 5, 44, 0};
    return SUCCESS;
}
