/** Figures as people read them. */

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })
export const count = (n: number): string => whole.format(n)

/** `1 device`, `12 devices`. */
export const plural = (n: number, one: string, many = `${one}s`): string => `${count(n)} ${n === 1 ? one : many}`

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const

export function bytes(n: number): string {
  let value = n
  let unit = 0
  while (Math.abs(value) >= 1024 && unit < UNITS.length - 1) {
    value /= 1024
    unit += 1
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${UNITS[unit] ?? 'B'}`
}

/** A share of one as percent. */
export const percent = (share: number, digits = 0): string => `${(share * 100).toFixed(digits)} %`

/** The first characters of a digest, enough to tell two apart. */
export const shortDigest = (digest: string): string => digest.replace(/^sha256:/, '').slice(0, 12)
