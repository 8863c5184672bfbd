# Read by the build of llama-cpp-python right after its project() call. Its own CMakeLists forces llama.cpp's
# "common" library on, which only the command-line tools use: a normal variable shadows that cache entry, and
# three quarters of the compile time go away.
set(LLAMA_BUILD_COMMON OFF)
# Images are decoded by libmtmd itself; its way to videos would start another program.
set(MTMD_VIDEO OFF CACHE BOOL "" FORCE)
