//! The tile instructions on machines without them: each one faults, and the handler of the fault
//! computes it by its definition. So the compiled code of `Hardware` runs on any Linux machine,
//! its instructions read from their bytes as a processor reads them.
//!
//! Source of the encodings: the manual's opcode tables; VEX.128.0F38.W0 48 to 5F.

use super::{Emulated, Shape};
use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static UNIT: RefCell<Emulated> = RefCell::new(Emulated::released());
}

/// Serves tile instructions from now on, if the machine has none.
pub(crate) fn serve_tiles() {
    static ONCE: Once = Once::new();
    if crate::Class::Amx.runs_here() {
        return;
    }
    ONCE.call_once(|| {
        // SAFETY: all zero is a valid action; the handler has the signature that the flag asks
        // for, and it is only ever entered from an instruction of this program.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
        }
    });
}

/// Computes the instruction that faulted and goes on behind it. Panics, and so ends the program,
/// if it is no tile instruction, or one that the unit would refuse.
extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system passes the thread's state, which is ours to read and change; an
    // instruction of up to 15 bytes stands where it stopped. Memory that the instruction names is
    // good by the contract of `Tiles`.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let code = registers[libc::REG_RIP as usize] as *const u8;
        let code = std::slice::from_raw_parts(code, 15);
        let length = UNIT.with_borrow_mut(|unit| step(unit, code, registers));
        registers[libc::REG_RIP as usize] += length as i64;
    }
}

/// Computes the instruction at the start of `code`; returns its length.
///
/// # Safety
///
/// The memory that the instruction names is readable or writable as it needs.
unsafe fn step(unit: &mut Emulated, code: &[u8], registers: &[i64; 23]) -> usize {
    let [0xc4, first, second, opcode, modes, ..] = *code else { panic!("fault at {code:x?}") };
    // The map 0F38; neither W nor the long vectors nor a tile above 7.
    assert_eq!((first & 0x9f, second & 0x84), (0x82, 0), "fault at {code:x?}");
    let (mode, t, rm) = (modes >> 6, modes >> 3 & 7, modes & 7);
    let prefix = second & 3;
    let third = !(second >> 3) & 15;
    if mode == 3 {
        match (prefix, opcode) {
            (0, 0x49) if modes == 0xc0 => *unit = Emulated::released(),
            (3, 0x49) if rm == 0 => unit.clear(t),
            (2, 0x5c) => unit.multiply_bf16(t, rm, third),
            (3, 0x5e) => unit.multiply_i8(t, rm, third),
            _ => panic!("fault at {code:x?}"),
        }
        return 5;
    }
    let place = Place::read(code, registers);
    // SAFETY: the caller's contract; a shape is plain bytes.
    unsafe {
        match (prefix, opcode) {
            (0, 0x49) if t == 0 => unit.set(*(place.base as *const Shape)),
            (3, 0x4b) if rm == 4 => unit.read(t, place.base as *const u8, place.stride),
            (2, 0x4b) if rm == 4 => unit.write(t, place.base as *mut u8, place.stride),
            _ => panic!("fault at {code:x?}"),
        }
    }
    place.length
}

/// A memory operand.
struct Place {
    base: usize,
    stride: usize,
    /// Of the whole instruction.
    length: usize,
}

impl Place {
    /// Reads the mode byte, the index byte and the displacement.
    fn read(code: &[u8], registers: &[i64; 23]) -> Place {
        use libc::*;
        const ORDER: [i32; 16] = [
            REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9,
            REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
        ];
        let value = |i: u8| registers[ORDER[usize::from(i)] as usize] as usize;
        let (mode, rm) = (code[4] >> 6, code[4] & 7);
        let high = |bit: u8| if code[1] >> bit & 1 == 0 { 8 } else { 0 };
        let (mut base, mut stride, mut length) = (rm + high(5), 0, 5);
        if rm == 4 {
            let index = (code[5] >> 3 & 7) + high(6);
            if index != 4 {
                stride = value(index) << (code[5] >> 6);
            }
            base = (code[5] & 7) + high(5);
            length = 6;
        }
        assert!(mode > 0 || base & 7 != 5, "an address without a base register");
        let offset = match mode {
            0 => 0,
            1 => isize::from(code[length] as i8),
            _ => {
                let d = [code[length], code[length + 1], code[length + 2], code[length + 3]];
                i32::from_le_bytes(d) as isize
            }
        };
        length += [0, 1, 4][usize::from(mode)];
        Place { base: value(base).wrapping_add_signed(offset), stride, length }
    }
}
