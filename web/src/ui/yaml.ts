/** Objects as YAML, as `farshore get -o yaml` writes them. Only writing; only what JSON can hold. */

const PLAIN = /^[A-Za-z_][\w./ @+-]*$/
const WORDS = /^(true|false|null|yes|no|on|off|y|n|~)$/i

function scalar(value: unknown): string {
  if (value === null || value === undefined) return 'null'
  if (typeof value !== 'string') return String(value)
  return PLAIN.test(value) && !WORDS.test(value) && !value.endsWith(' ') ? value : JSON.stringify(value)
}

const isEmpty = (value: object): boolean => (Array.isArray(value) ? value.length === 0 : Object.keys(value).length === 0)

function lines(value: unknown, indent: string): string[] {
  if (Array.isArray(value)) {
    return value.flatMap((item: unknown) => {
      if (typeof item !== 'object' || item === null || isEmpty(item)) return [`${indent}- ${inline(item)}`]
      const [first = '', ...rest] = lines(item, `${indent}  `)
      return [`${indent}- ${first.trimStart()}`, ...rest]
    })
  }
  return Object.entries(value as Record<string, unknown>)
    .filter(([, item]) => item !== undefined)
    .flatMap(([key, item]) => {
      const name = `${indent}${scalar(key)}:`
      if (typeof item !== 'object' || item === null || isEmpty(item)) return [`${name} ${inline(item)}`]
      return [name, ...lines(item, `${indent}  `)]
    })
}

function inline(value: unknown): string {
  if (Array.isArray(value)) return '[]'
  return typeof value === 'object' && value !== null ? '{}' : scalar(value)
}

export function toYaml(value: unknown): string {
  return typeof value === 'object' && value !== null && !isEmpty(value) ? `${lines(value, '').join('\n')}\n` : `${inline(value)}\n`
}
