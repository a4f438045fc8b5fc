/**
 * For fingerprintjs2 (2.x).
 *
 * @param {any} Fingerprint2 the library
 * @param {Options} [options]
 * @returns {Fingerprint}
 */
export function fingerprintjs2(Fingerprint2: any, options?: Options): Fingerprint;
/**
 * For @fingerprintjs/fingerprintjs (3 to 5).
 *
 * @param {any} FingerprintJS the library
 * @param {Options} [options]
 * @returns {Fingerprint}
 */
export function fingerprintjs(FingerprintJS: any, options?: Options): Fingerprint;
export type Options = {
    shared?: boolean;
};
export type Fingerprint = () => Promise<string>;
