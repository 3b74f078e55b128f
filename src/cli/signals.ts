type StopSignal = 'SIGINT' | 'SIGTERM';

export interface StopSignals {
  /** The first signal that came. */
  readonly received: StopSignal | undefined;
  dispose(): void;
}

/** Takes the first SIGINT or SIGTERM as a wish to stop; a second one ends the process at once, as if unhandled. */
export function stopOnSignals(onFirst: (signal: StopSignal) => void): StopSignals {
  let received: StopSignal | undefined;
  const handle = (signal: StopSignal): void => {
    if (received !== undefined) {
      dispose();
      // Not process.exit: that would wait for ranks inside native code.
      process.kill(process.pid, signal);
      return;
    }
    received = signal;
    onFirst(signal);
  };
  const dispose = (): void => {
    process.off('SIGINT', handle);
    process.off('SIGTERM', handle);
  };
  process.on('SIGINT', handle);
  process.on('SIGTERM', handle);
  return {
    get received() {
      return received;
    },
    dispose,
  };
}
