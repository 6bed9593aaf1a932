/* power_cut FOLDER: the ext4 file system that holds it forgets what it has not written to its disk,
 * and does nothing more until it is mounted anew (EXT4_IOC_SHUTDOWN without a flush of its log). */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

int main(int count, char **arguments) {
    uint32_t without_flush = 2;
    int folder = count == 2 ? open(arguments[1], O_RDONLY) : -1;
    if (folder < 0 || ioctl(folder, _IOR('X', 125, uint32_t), &without_flush)) {
        perror("power_cut");
        return 1;
    }
    return 0;
}
