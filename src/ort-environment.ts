/**
 * Imported before anything that may load ONNX Runtime. On Linux version 1.30 reports its use to Microsoft, keeps a
 * database in the user's cache and leaves a log in the temporary folder of every process, unless this is set when the
 * library is loaded: what is compiled and trained is nobody else's business. A user's own setting stays.
 *
 * Native code sees what the main thread sets, before workers start, and nothing that a worker sets.
 */
process.env['ORT_DISABLE_TELEMETRY'] ??= '1';
