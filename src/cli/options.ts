import { InvalidArgumentError, Option, type Command } from 'commander';

const integer = (text: string, least: number, what: string): number => {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < least)
    throw new InvalidArgumentError(`Expected ${what}.`);
  return value;
};

/** An integer of 1 or more. */
export const positive = (text: string): number => integer(text, 1, 'a whole number of 1 or more');

/** A degree of 1 or more, or `auto`. */
export const degreeOrAuto = (text: string): number | 'auto' =>
  text === 'auto' ? text : integer(text, 1, "a whole number of 1 or more, or 'auto'");

/** An integer of 0 or more. */
export const natural = (text: string): number => integer(text, 0, 'a whole number of 0 or more');

/** A finite number above 0. */
export function positiveNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value) || value <= 0)
    throw new InvalidArgumentError('Expected a number above 0, such as 3e-4.');
  return value;
}

/** A number from 0 to 1. */
export function ratio(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= 0 && value <= 1))
    throw new InvalidArgumentError('Expected a number from 0 to 1.');
  return value;
}

/** `1,2,4`: different integers of 1 or more. */
export function positives(text: string): number[] {
  const values = text
    .split(',')
    .map((part) => integer(part.trim(), 1, 'whole numbers of 1 or more, such as 1,2,4'));
  return [...new Set(values)];
}

export const jsonOption = (what: string): Option => new Option('--json', `print ${what} as JSON`);

/**
 * The value of an option that a command cannot do without. Checked in the action, not by commander, which would
 * complain about it before a misspelt flag that explains why it is missing.
 */
export function required<T>(command: Command, value: T | undefined, flags: string): T {
  if (value === undefined) command.error(`required option '${flags}' not specified`, { exitCode: 2 });
  return value!;
}
