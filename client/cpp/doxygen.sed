# The headers' comments as Doxygen wants them (Doxyfile): // becomes ///, at the end of a member ///<, and what is indented
# stands as code.
s|^( *)//   ( *[^ ].*)$|\1///     \2|
s|^( *)//( .*)?$|\1///\2|
/NOLINT/!s|([;,]) +// (.*)$|\1  ///< \2|
