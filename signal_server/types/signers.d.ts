/**
 * For kbpgp (2.x). It cannot verify the keys of most other modern programs: see docs/signatures.md. A message of such a
 * peer is rejected with the name `CannotVerify`, and such a key in `trusted` rejects at once.
 *
 * @param {any} kbpgp the library
 * @param {Options} [options]
 * @returns {Promise<Signer>}
 */
export function kbpgpSigner(kbpgp: any, { privateKey, passphrase, trusted }?: Options): Promise<Signer>;
/**
 * For openpgp.js (6.x).
 *
 * @param {any} openpgp the library
 * @param {Options} [options]
 * @returns {Promise<Signer>}
 */
export function openpgpSigner(openpgp: any, { privateKey, passphrase, trusted }?: Options): Promise<Signer>;
/**
 * all keys are armored
 */
export type Options = {
    /**
     * without it, a new key is made
     */
    privateKey?: string | undefined;
    /**
     * of the private key
     */
    passphrase?: string | undefined;
    /**
     * whose messages are taken; without it, any key's that comes with its PUBLIC_KEY
     */
    trusted?: string | string[] | undefined;
};
export type Verified = {
    text: string;
    fingerprint: string;
};
export type Signer = {
    /**
     * of the primary key, in upper-case hexadecimal
     */
    fingerprint: string;
    publicKey: () => string;
    /**
     * gives an armored attached message;
     * `date`: the time by the server's clock, if ours is wrong
     */
    sign: (text: string, options?: {
        date?: Date;
    }) => Promise<string>;
    /**
     * rejects what does not hold; `pinned`: with exactly this key, whomever else we trust
     */
    verify: (message: string, publicKey: string, options?: {
        pinned?: boolean;
        date?: Date;
    }) => Promise<Verified>;
};
