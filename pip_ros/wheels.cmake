# The ROS wheels of PyPI export /opt/python/..., an include folder of the machine they were built on, and cmake refuses
# imported targets whose include folders do not exist. Passed as CMAKE_PROJECT_INCLUDE; never needed with /opt/ros.
function(scenegen_drop_wheel_includes)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders)
      list(FILTER folders EXCLUDE REGEX "^/opt/python/")
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${folders}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL scenegen_drop_wheel_includes)
