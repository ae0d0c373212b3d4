"""Between hospitals: node data, certificates, a rehearsal on one machine."""
