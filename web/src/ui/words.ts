/** A list of words on one line: quotes keep spaces together, a backslash inside them the next character. */

/** The words of a line. An open quote ends with the line. */
export function split(line: string): string[] {
  const words: string[] = []
  let word: string | undefined
  let quoted = false
  for (let i = 0; i < line.length; i += 1) {
    const c = line[i] ?? ''
    if (quoted && c === '\\' && i + 1 < line.length) {
      word = (word ?? '') + (line[i + 1] ?? '')
      i += 1
    } else if (c === '"') {
      quoted = !quoted
      word ??= ''
    } else if (!quoted && /\s/.test(c)) {
      if (word !== undefined) words.push(word)
      word = undefined
    } else {
      word = (word ?? '') + c
    }
  }
  if (word !== undefined) words.push(word)
  return words
}

/** The line of these words. */
export const join = (words: readonly string[]): string =>
  words.map((word) => (word !== '' && !/[\s"]/.test(word) ? word : `"${word.replaceAll(/["\\]/g, String.raw`\$&`)}"`)).join(' ')

/** A word of a shell's line, in quotes where it needs them. */
export const shellWord = (text: string): string => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`)
