#ifndef NORMD_CLIENT_CPP_SRC_SHARED_CALL_H_
#define NORMD_CLIENT_CPP_SRC_SHARED_CALL_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cpp/src/shared_memory.h"
#include "client/cpp/src/tensor_call.h"

// A call's way through shared memory: Place, then send it, then Settle.
namespace normd::internal {

// Puts the call's tensors into shared memory where they are large enough and not there already, and finds a place for
// its result: `into` itself where that lies in shared memory apart from the inputs, since an attempt that failed must
// leave these as they are. What gets no place stays as it was. Waits for at most `wait`.
void Place(SharedMemory* shared_memory, absl::Duration wait, TensorCall* call);

// Takes note of how the call ended, and says whether to send it once more, this time in the message, since shared
// memory was the trouble: a region that the server does not know or that was cut short, or a session that has ended.
// Then the call has no places any more. NOT_FOUND may mean the layer as well; the second time tells.
bool Settle(SharedMemory* shared_memory, const absl::Status& status, TensorCall* call);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_SHARED_CALL_H_
