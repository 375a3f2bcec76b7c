import { fileURLToPath } from 'node:url'

import tailwindcss from '@tailwindcss/vite'
import react from '@vitejs/plugin-react'
import { defineConfig } from 'vitest/config'

/** Where `npm run dev` finds the API: a server, or `npm run mock`. */
const api = process.env.FARSHORE_API ?? 'http://127.0.0.1:4199'

export default defineConfig({
  plugins: [react(), tailwindcss()],
  resolve: { alias: { '~': fileURLToPath(new URL('./src', import.meta.url)) } },
  // The server's content policy allows nothing inline but styles, so no asset becomes a data: address.
  build: { target: 'es2022', assetsInlineLimit: 0, sourcemap: false, chunkSizeWarningLimit: 700 },
  worker: { format: 'es' },
  server: { host: '127.0.0.1', port: 4198, proxy: { '/api': { target: api, changeOrigin: true, secure: false } } },
  test: { environment: 'happy-dom', include: ['src/**/*.test.{ts,tsx}'] },
})
