//! Builds small BPF objects for the tests of this crate.

/// An object under construction.
pub(crate) struct Sample {
    sections: Vec<(String, u32, u64, u32, Vec<u8>)>,
    names: Vec<u8>,
    symbols: Vec<(String, u16, u8)>,
    relocations: Vec<(u16, u64, String)>,
}

impl Sample {
    pub(crate) fn new() -> Self {
        Sample { sections: Vec::new(), names: vec![0], symbols: Vec::new(), relocations: Vec::new() }
    }

    /// Adds a section with contents and returns its index.
    pub(crate) fn section(&mut self, name: &str, flags: u64, bytes: &[u8]) -> u16 {
        self.sections.push((name.to_owned(), 1, flags, 0, bytes.to_vec()));
        self.sections.len() as u16
    }

    /// Adds a symbol; section 0 means that it is defined elsewhere.
    pub(crate) fn symbol(&mut self, name: &str, section: u16, info: u8) {
        self.symbols.push((name.to_owned(), section, info));
    }

    /// Makes the place `offset` of a section refer to a symbol.
    pub(crate) fn relocate(&mut self, section: u16, offset: u64, symbol: &str) {
        self.relocations.push((section, offset, symbol.to_owned()));
    }

    /// The bytes of the object.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        for index in 1..=self.sections.len() as u16 {
            let entries: Vec<u8> = self
                .relocations
                .iter()
                .filter(|(section, ..)| *section == index)
                .flat_map(|(_, offset, symbol)| {
                    let number = self.symbols.iter().position(|(name, ..)| name == symbol).unwrap() as u64 + 1;
                    [offset.to_le_bytes(), (number << 32 | 10).to_le_bytes()].concat()
                })
                .collect();
            if !entries.is_empty() {
                let name = format!(".rel{}", self.sections[usize::from(index) - 1].0);
                self.sections.push((name, 9, 0, u32::from(index), entries));
            }
        }
        let mut table = vec![0; 24];
        for (name, section, info) in std::mem::take(&mut self.symbols) {
            table.extend(self.name(&name).to_le_bytes());
            table.extend([info, 0]);
            table.extend(section.to_le_bytes());
            table.extend([0; 16]);
        }
        let strings = self.sections.len() as u32 + 1;
        self.sections.push((".strtab".into(), 3, 0, 0, Vec::new()));
        self.sections.push((".symtab".into(), 2, 0, 1, table));
        let offsets: Vec<u32> = self.sections.clone().iter().map(|(name, ..)| self.name(name)).collect();
        self.sections[strings as usize - 1].4 = self.names.clone();

        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(64, 0);
        out[16] = 1;
        out[18] = 247;
        out[58] = 64;
        out[60] = self.sections.len() as u8 + 1;
        out[62] = strings as u8;
        let mut headers = vec![0; 64];
        for ((_, kind, flags, info, bytes), name) in self.sections.iter().zip(offsets) {
            let link = if matches!(kind, 2 | 9) { strings + u32::from(*kind == 9) } else { 0 };
            headers.extend([name, *kind].map(u32::to_le_bytes).concat());
            headers.extend([*flags, 0, out.len() as u64, bytes.len() as u64].map(u64::to_le_bytes).concat());
            headers.extend([link, *info].map(u32::to_le_bytes).concat());
            headers.extend([1_u64, 0].map(u64::to_le_bytes).concat());
            out.extend(bytes);
        }
        let table = out.len() as u64;
        out[40..48].copy_from_slice(&table.to_le_bytes());
        out.extend(headers);
        out
    }

    fn name(&mut self, name: &str) -> u32 {
        let offset = self.names.len() as u32;
        self.names.extend(name.bytes());
        self.names.push(0);
        offset
    }
}

/// A call of the helper with this number.
pub(crate) fn call(helper: u32) -> Vec<u8> {
    instruction(0x85, 0, 0, helper as i32)
}

/// The end of a program.
pub(crate) fn exit() -> Vec<u8> {
    instruction(0x95, 0, 0, 0)
}

/// Any one instruction.
pub(crate) fn instruction(code: u8, source_register: u8, offset: i16, immediate: i32) -> Vec<u8> {
    let mut bytes = vec![code, source_register << 4];
    bytes.extend(offset.to_le_bytes());
    bytes.extend(immediate.to_le_bytes());
    bytes
}
