import { defineConfig } from "vitest/config";

export default defineConfig({
  build: {
    outDir: "../api/static",
    emptyOutDir: true,
    target: "es2024",
    // The content security policy permits no data: scripts or fonts.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000" } },
  test: { include: ["tests/**/*.test.ts"] },
});
