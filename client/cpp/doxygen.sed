# The headers as Doxygen wants them (Doxyfile). Nobody writes normd::abi_0_1, so that the reference does not show it. Of the
# comments, // becomes ///, at the end of a member ///<, and what is indented stands as code.
/^inline namespace abi_/d
/^} +\/\/ namespace abi_/d
s|^( *)//   ( *[^ ].*)$|\1///     \2|
s|^( *)//( .*)?$|\1///\2|
/NOLINT/!s|([;,]) +// (.*)$|\1  ///< \2|
