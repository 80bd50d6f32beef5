// A device that is there from the beginning, for programs without Python: translated kernels lie
// beside this library, see folder.py.
#include <dlfcn.h>

#include "state.h"

namespace emu {
namespace driver {

namespace {

std::string own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(own_folder), &info) || !info.dli_fname) return "";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}
int look_up(const void *image, char *path, int room) {
  struct Header { uint32_t magic; uint16_t version, skip; uint64_t size; } header;
  memcpy(&header, image, sizeof header);
  if (header.magic != 0xba55ed50u) return refuse(kInvalidImage, "the device code is no fat binary"), 1;
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (uint64_t i = 0; i < header.skip + header.size; ++i)
    hash = (hash ^ static_cast<const unsigned char *>(image)[i]) * 0x100000001b3u;
  const int length = snprintf(path, (size_t)room, "%s/%016llx.so", own_folder().c_str(), (unsigned long long)hash);
  if (length >= 0 && length < room) return 0;
  return refuse(kInvalidImage, "the path of the emulator's folder is too long"), 1;
}
struct AtStart {  // a device is there from the beginning, where a file beside the library says so
  AtStart() {
    FILE *file = fopen((own_folder() + "/device").c_str(), "r");
    if (!file) return;
    int arch = 0;
    uint32_t limit = 0;
    if (fscanf(file, "%d %u", &arch, &limit) == 2) {
      architecture = arch;
      shared_limit = limit;
      translate = look_up;
      alone = true;
    }
    fclose(file);
  }
} at_start;

}  // namespace

}  // namespace driver
}  // namespace emu
