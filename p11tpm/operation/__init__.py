"""Operations that a session carries on from its C_...Init to its end (PKCS#11 Base Specification 3.0, clause 5)."""
