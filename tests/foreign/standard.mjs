// The Open Inference Protocol from the standard's names and numbers, and not from normd's .proto: the client of somebody
// who has never seen that. https://github.com/kserve/open-inference-protocol
import grpc from '@grpc/grpc-js';
import protobuf from 'protobufjs';

// "name type number", "repeated ...", "map ..." (string to type).
function message(...fields) {
  const out = {};
  for (const field of fields) {
    const words = field.split(' ');
    const rule = ['repeated', 'map'].includes(words[0]) ? words.shift() : undefined;
    const [name, type, id] = words;
    out[name] = { type, id: Number(id) };
    if (rule === 'repeated') out[name].rule = 'repeated';
    if (rule === 'map') out[name].keyType = 'string';
  }
  return { fields: out };
}

const parameter = message('bool_param bool 1', 'int64_param int64 2', 'string_param string 3', 'double_param double 4',
                          'uint64_param uint64 5');
parameter.oneofs = { parameter_choice: { oneof: Object.keys(parameter.fields) } };

const root = protobuf.Root.fromJSON({
  nested: {
    Empty: message(),
    Live: message('live bool 1'),
    Ready: message('ready bool 1'),
    NameVersion: message('name string 1', 'version string 2'),
    Name: message('name string 1'),
    ServerMetadata: message('name string 1', 'version string 2', 'repeated extensions string 3'),
    TensorMetadata: message('name string 1', 'datatype string 2', 'repeated shape int64 3'),
    ModelMetadata: message('name string 1', 'repeated versions string 2', 'platform string 3',
                           'repeated inputs TensorMetadata 4', 'repeated outputs TensorMetadata 5'),
    ModelInput: message('name string 1', 'data_type int32 2', 'repeated dims int64 4'),
    ModelOutput: message('name string 1', 'data_type int32 2', 'repeated dims int64 3'),
    Config: message('name string 1', 'platform string 2', 'max_batch_size int32 4', 'repeated input ModelInput 5',
                    'repeated output ModelOutput 6', 'backend string 17'),
    ModelConfig: message('config Config 1'),
    Parameter: parameter,
    Contents: message('repeated fp32_contents float 6', 'repeated fp64_contents double 7'),
    Input: message('name string 1', 'datatype string 2', 'repeated shape int64 3', 'map parameters Parameter 4',
                   'contents Contents 5'),
    RequestedOutput: message('name string 1', 'map parameters Parameter 2'),
    InferRequest: message('model_name string 1', 'model_version string 2', 'id string 3', 'map parameters Parameter 4',
                          'repeated inputs Input 5', 'repeated outputs RequestedOutput 6',
                          'repeated raw_input_contents bytes 7'),
    InferResponse: message('model_name string 1', 'model_version string 2', 'id string 3', 'map parameters Parameter 4',
                           'repeated outputs Input 5', 'repeated raw_output_contents bytes 6'),
    StreamResponse: message('error_message string 1', 'infer_response InferResponse 2'),
    Duration: message('count uint64 1', 'ns uint64 2'),
    InferStatistics: message('success Duration 1', 'fail Duration 2'),
    ModelStatistics: message('name string 1', 'version string 2', 'last_inference uint64 3', 'inference_count uint64 4',
                             'execution_count uint64 5', 'inference_stats InferStatistics 6'),
    Statistics: message('repeated model_stats ModelStatistics 1'),
    IndexRequest: message('repository_name string 1', 'ready bool 2'),
    ModelIndex: message('name string 1', 'version string 2', 'state string 3', 'reason string 4'),
    Index: message('repeated models ModelIndex 1'),
    Region: message('name string 1', 'key string 2', 'offset uint64 3', 'byte_size uint64 4'),
    Regions: message('map regions Region 1'),
  },
});

function method(name, request, response, stream = false) {
  const requestType = root.lookupType(request);
  const responseType = root.lookupType(response);
  return {
    path: `/inference.GRPCInferenceService/${name}`,
    requestStream: stream,
    responseStream: stream,
    requestSerialize: (value) => Buffer.from(requestType.encode(requestType.fromObject(value)).finish()),
    responseDeserialize: (bytes) => responseType.toObject(responseType.decode(bytes), { longs: Number, arrays: true }),
  };
}

export const InferenceClient = grpc.makeGenericClientConstructor({
  ServerLive: method('ServerLive', 'Empty', 'Live'),
  ServerReady: method('ServerReady', 'Empty', 'Ready'),
  ModelReady: method('ModelReady', 'NameVersion', 'Ready'),
  ServerMetadata: method('ServerMetadata', 'Empty', 'ServerMetadata'),
  ModelMetadata: method('ModelMetadata', 'NameVersion', 'ModelMetadata'),
  ModelConfig: method('ModelConfig', 'NameVersion', 'ModelConfig'),
  ModelInfer: method('ModelInfer', 'InferRequest', 'InferResponse'),
  ModelStreamInfer: method('ModelStreamInfer', 'InferRequest', 'StreamResponse', true),
  ModelStatistics: method('ModelStatistics', 'NameVersion', 'Statistics'),
  RepositoryIndex: method('RepositoryIndex', 'IndexRequest', 'Index'),
  SystemSharedMemoryStatus: method('SystemSharedMemoryStatus', 'Name', 'Regions'),
  SystemSharedMemoryRegister: method('SystemSharedMemoryRegister', 'Region', 'Empty'),
  SystemSharedMemoryUnregister: method('SystemSharedMemoryUnregister', 'Name', 'Empty'),
}, 'GRPCInferenceService');
