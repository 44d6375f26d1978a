//! For whom a certificate stands: its DNS names, or the common name of those old ways.

use rustls::pki_types::CertificateDer;

/// Tags of DER: the few that the common name stands in.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;

/// 2.5.4.3: the common name.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];

/// The DNS names or, where there are none, the common name; in lower case.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let names: Vec<_> = certificate.valid_dns_names().map(str::to_ascii_lowercase).collect();
    if !names.is_empty() {
        return names;
    }
    common_name(certificate.subject()).into_iter().collect()
}

/// The last common name of a subject: the most specific one.
fn common_name(subject: &[u8]) -> Option<String> {
    let mut rest = match value(subject) {
        Some((SEQUENCE, inner, [])) => inner,
        _ => subject,
    };
    let mut name = None;
    while let Some((SET, mut attributes, behind)) = value(rest) {
        while let Some((SEQUENCE, attribute, more)) = value(attributes) {
            if let Some((OBJECT_ID, COMMON_NAME, text)) = value(attribute)
                && let Some((UTF8_STRING | PRINTABLE_STRING, text, [])) = value(text)
            {
                name = std::str::from_utf8(text).ok().map(str::to_ascii_lowercase);
            }
            attributes = more;
        }
        rest = behind;
    }
    name.filter(|name| !name.is_empty())
}

/// Tag and content of the first value, and what is behind it. Lengths of up to two bytes: a name is short.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match (first, rest) {
        (0..=0x7f, _) => (usize::from(first), rest),
        (0x81, [length, rest @ ..]) => (usize::from(*length), rest),
        (0x82, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    let (content, behind) = rest.split_at_checked(length)?;
    Some((tag, content, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str], common_name: Option<&str>) -> Vec<String> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Billing & Sons");
        if let Some(name) = common_name {
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
        }
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        super::names(made.der())
    }

    #[test]
    fn dns_names_come_before_the_common_name() {
        assert_eq!(
            certificate(&["Billing.example", "b.example"], Some("x")),
            ["billing.example", "b.example"]
        );
        assert_eq!(certificate(&[], Some("Billing")), ["billing"]);
        assert_eq!(certificate(&["10.0.0.1"], Some(&"long ".repeat(40))), ["long ".repeat(40)]);
        assert!(certificate(&[], None).is_empty());
    }

    #[test]
    fn what_is_no_name_is_none() {
        assert_eq!(common_name(&[]), None);
        assert_eq!(common_name(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(common_name(&[SET, 5, SEQUENCE, 9, OBJECT_ID, 3, 0x55]), None);
        assert!(names(&CertificateDer::from(vec![1, 2, 3])).is_empty());
    }
}
