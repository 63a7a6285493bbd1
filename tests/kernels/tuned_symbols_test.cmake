# Fails when an object compiled with extra -m flags defines a weak symbol: an inline function or
# template instance that the linker may pick for the whole binary, AVX-512 code included.
file(GLOB_RECURSE objects ${OBJECT_DIR}/*_avx2.cc.o ${OBJECT_DIR}/*_avxvnni.cc.o ${OBJECT_DIR}/*_avx512.cc.o
     ${OBJECT_DIR}/*_avx512vnni.cc.o
     ${OBJECT_DIR}/*_avx512bf16.cc.o)
list(LENGTH objects count)
if(count EQUAL 0)
  message(FATAL_ERROR "no tuned objects in ${OBJECT_DIR}")
endif()
foreach(object ${objects})
  execute_process(COMMAND ${NM} -C --defined-only ${object} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" shared "${symbols}")
  # Sanitizers add symbols of their own.
  list(FILTER shared EXCLUDE REGEX "(__asan|__odr_asan|__ubsan|__tsan|DW\\.ref)")
  if(shared)
    message(FATAL_ERROR "${object} defines shared symbols:\n${shared}")
  endif()
endforeach()
message(STATUS "${count} tuned objects define no shared symbol")
