/** The page's icons: 16 px strokes in the colour of the text. Always beside a word or under an `aria-label`. */
const PATHS = {
  home: 'M2.5 7.2 8 2.8l5.5 4.4v6H9.8V9.6H6.2v3.6H2.5z',
  device: 'M3 3h10v7.2H3zM6 13h4M8 10.4V13',
  app: 'M3 3h4v4H3zM9 3h4v4H9zM3 9h4v4H3zM9 9h4v4H9z',
  rollout: 'M2.5 4h4M2.5 8h7.5M2.5 12h11',
  release: 'M8 2.5 13 5v6l-5 2.5L3 11V5zM3 5l5 2.6L13 5M8 7.6v5.9',
  artifact: 'M4 2.5h5l3 3v8H4zM9 2.5v3h3M6 8.5h4M6 11h4',
  document: 'M3.5 2.5h9v11h-9zM6 6h4M6 8.5h4M6 11h2',
  policy: 'M8 2.5 13 4.5V8c0 3-2 5-5 6-3-1-5-3-5-6V4.5zM6 8l1.5 1.5L10.3 6.7',
  token: 'M5.6 10.4a3 3 0 1 1 2-5.2 3 3 0 0 1 .7 3.2l4.7 4.4v-2M5 7h.01',
  user: 'M8 7.6a2.6 2.6 0 1 0 0-5.2 2.6 2.6 0 0 0 0 5.2M3 13.6c.5-2.6 2.5-4 5-4s4.5 1.4 5 4',
  gateway: 'M3 9.5h10v4H3zM5.2 11.5h.01M8 9.5V6.5M5.4 5.4a3.7 3.7 0 0 1 5.2 0M3.6 3.6a6.2 6.2 0 0 1 8.8 0',
  incident: 'M8 2.5 14 13H2zM8 6.5v3M8 11.3v.1',
  bell: 'M4 11V7a4 4 0 0 1 8 0v4l1 1.3H3zM6.8 14h2.4',
  search: 'M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9M10.3 10.3 13.5 13.5',
  sun: 'M8 10.8a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6M8 1.5v1.5M8 13v1.5M1.5 8H3M13 8h1.5M3.4 3.4l1 1M11.6 11.6l1 1M12.6 3.4l-1 1M4.4 11.6l-1 1',
  moon: 'M13 9.6A5.5 5.5 0 0 1 6.4 3 5.5 5.5 0 1 0 13 9.6',
  screen: 'M2.5 3.5h11v7h-11zM6 13h4',
  close: 'm4 4 8 8M12 4l-8 8',
  copy: 'M5.5 5.5h7v7h-7zM3.5 10.5v-7h7',
  check: 'm3.5 8.5 3 3 6-7',
  down: 'm4 6 4 4 4-4',
  up: 'm4 10 4-4 4 4',
  right: 'm6 4 4 4-4 4',
  left: 'm10 4-4 4 4 4',
  plus: 'M8 3v10M3 8h10',
  menu: 'M2.5 4.5h11M2.5 8h11M2.5 11.5h11',
  help: 'M6.2 6.2a1.9 1.9 0 1 1 2.7 1.7c-.6.3-.9.7-.9 1.4M8 11.7h.01M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12',
  more: 'M3.5 8h.01M8 8h.01M12.5 8h.01',
  pause: 'M5.5 3.5v9M10.5 3.5v9',
  play: 'M5 3.5v9l7-4.5z',
  stop: 'M4 4h8v8H4z',
  retry: 'M13 8a5 5 0 1 1-1.6-3.7M13 2.5V5h-2.5',
  out: 'M6.5 13H3V3h3.5M10 5l3 3-3 3M13 8H6.5',
} as const

export type IconName = keyof typeof PATHS

export function Icon({ name, size = 16 }: { name: IconName; size?: number }) {
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 16 16"
      fill="none"
      stroke="currentColor"
      strokeWidth={name === 'more' ? 2 : 1.4}
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
      className="shrink-0"
    >
      <path d={PATHS[name]} />
    </svg>
  )
}
